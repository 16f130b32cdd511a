"""Errors say who refuses, what was got, what was expected and what to write instead: the whole messages."""

import pytest
import torch
from torch import nn

import fnopt
from fnopt import SGD, Adam, AdamW, ClipNorm, errors
from fnopt.rules.muon import Muon

ones, complex_ones = {"w": torch.ones(2)}, {"w": torch.ones(2, 2, dtype=torch.complex64)}
loss = fnopt.value_and_grad(lambda params, x: ((params["w"] * x).sum(), 1))
accumulated, state = fnopt.accumulate(loss), fnopt.TrainState.of({"w": torch.ones(())})
clip, sgd, amsgrad = ClipNorm(1.0), SGD(0.1), AdamW(amsgrad=True)
torch_adam = torch.optim.Adam(nn.Linear(1, 1).parameters())


def aux_of(x):
    """A loss whose aux has another name each time."""
    return fnopt.value_and_grad(lambda params, x: (params["w"] * x, 1, {f"name {int(x)}": x}))


MESSAGES = {
    "accumulate takes lists": (
        lambda: accumulated(state, (torch.ones(1),)),
        "accumulate: got a tuple, expected a list of micro-batches (a tuple is one Batch); write [batch], give "
        "Batches micro_batches=, or leave accumulate out",
    ),
    "accumulate of nothing": (
        lambda: accumulated(state, []),
        "accumulate: got an empty list, expected at least one micro-batch",
    ),
    "aux with other names": (
        lambda: fnopt.accumulate(aux_of(1))(state, [torch.tensor(2.0), torch.tensor(1.0)]),
        "loss: aux has the names ['name 2'] and then ['name 1'], expected the same every time",
    ),
    "growth": (
        lambda: fnopt.DynamicLossScale(growth_factor=1.0),
        "DynamicLossScale: growth_factor must be finite and > 1, got 1.0",
    ),
    "infinite growth": (
        lambda: fnopt.DynamicLossScale(growth_factor=float("inf")),
        "DynamicLossScale: growth_factor must be finite and > 1, got inf",
    ),
    "no backoff": (
        lambda: fnopt.DynamicLossScale(backoff_factor=1.0),
        "DynamicLossScale: backoff_factor must be in (0, 1), got 1.0",
    ),
    "backoff to 0": (
        lambda: fnopt.DynamicLossScale(backoff_factor=0.0),
        "DynamicLossScale: backoff_factor must be in (0, 1), got 0.0",
    ),
    "Adafactor's eps": (
        lambda: fnopt.Adafactor(eps=(1e-30, -1.0)),
        "Adafactor: eps must be (None or a float >= 0, a float >= 0), got (1e-30, -1.0)",
    ),
    "Adafactor's eps in a list": (
        lambda: fnopt.Adafactor(eps=[1e-30, 1e-3]),
        "Adafactor: eps must be (None or a float >= 0, a float >= 0), got [1e-30, 0.001]",
    ),
    "Adafactor of complex": (
        lambda: fnopt.Adafactor().init_state(complex_ones),
        "Adafactor: 'w' is torch.complex64, expected a real parameter; use torch.view_as_real",
    ),
    "Muon of vectors": (
        lambda: Muon().init_state(ones),
        "Muon: 'w' has shape [2] and torch.float32, expected a real matrix; give the others to another rule: "
        'fnopt.partition({"muon": Muon(…), "rest": AdamW(…)}, fnopt.label(model, …))',
    ),
    "Muon of complex": (
        lambda: Muon().init_state(complex_ones),
        "Muon: 'w' has shape [2, 2] and torch.complex64, expected a real matrix; give the others to another rule: "
        'fnopt.partition({"muon": Muon(…), "rest": AdamW(…)}, fnopt.label(model, …))',
    ),
    "Muon's coefficients": (
        lambda: Muon(ns_coefficients=(1.0, 2.0, 3)),
        "Muon: ns_coefficients must be a tuple of 3 floats, got (1.0, 2.0, 3)",
    ),
    "Nesterov without momentum": (
        lambda: SGD(nesterov=True),
        "SGD: nesterov=True needs momentum > 0 and dampening = 0, got momentum=0.0 and dampening=0.0",
    ),
    "Nesterov with dampening": (
        lambda: SGD(momentum=0.9, dampening=0.5, nesterov=True),
        "SGD: nesterov=True needs momentum > 0 and dampening = 0, got momentum=0.9 and dampening=0.5",
    ),
    "a parameter without a label": (
        lambda: fnopt.label(ones, {"x": "a"}),
        "label: no rule matches 'w'; end with (\"*\", …) to catch the rest",
    ),
    "an idle rule": (
        lambda: fnopt.label({str(n): torch.ones(1) for n in range(6)}, {"*": "a", "x": "b", 2: "c"}),
        "label: these rules are the first match of no parameter: ['x', 2]; names are ['0', '1', '2', '3', '4']…, and "
        "the first rule that matches wins",
    ),
    "a rule of no kind": (
        lambda: fnopt.label(ones, {None: "a"}),
        "label: got the rule None, expected a name glob, an int, a module type or a predicate",
    ),
    "labels of others": (
        lambda: fnopt.partition({"a": sgd}, {"v": "a"}).init_state(ones),
        "partition: params and labels have different names: without a label ['w'], labels without a parameter ['v']; "
        "make the labels with fnopt.label(model, rules)",
    ),
    "labels without an optimizer": (
        lambda: fnopt.partition({"b": sgd, "a": sgd}, {"w": "z", "v": "y"}),
        "partition: no optimizer for the labels ['y', 'z']; there is one for ['a', 'b']",
    ),
    "an idle glob": (
        lambda: fnopt.freeze(sgd, "w", "x*").init_state(ones),
        "freeze: ['x*'] match no parameter; names are ['w']…",
    ),
    "an Optimizer amid a chain": (
        lambda: fnopt.chain(clip, sgd, clip),
        "chain: SGD is an Optimizer and stands at place 2 of 3, expected last; to act on its direction before it is "
        "applied use chain(ScaleByAdam(), …, SGD(lr))",
    ),
    "a class": (
        lambda: fnopt.chain(ClipNorm, sgd),
        "chain: got the class ClipNorm, expected an instance; write ClipNorm(…)",
    ),
    "a stateful optimizer": (
        lambda: fnopt.ema(torch_adam),
        "ema: got a stateful Adam that holds its own params, expected a pure Optimizer; write fnopt.Adam(lr=…)",
    ),
    "no part of a chain": (
        lambda: fnopt.chain(0.1),
        "chain: got 0.1, expected a record with init_state and transform, or at the end update",
    ),
    "no optimizer": (
        lambda: fnopt.lookahead(0.1),
        "lookahead: got 0.1, expected a record with init_state and update",
    ),
    "the state of another chain": (
        lambda: fnopt.chain(clip, sgd).update(ones, fnopt.chain(clip, Adam()).init_state(ones), ones),
        "chain: the state has parts ['ClipNorm', 'Adam'], expected ['ClipNorm', 'SGD']; call init_state of this chain",
    ),
    "the state of another chain of transforms": (
        lambda: fnopt.chain(clip).transform(ones, {}, ones),
        "chain: the state has parts [], expected ['ClipNorm']; call init_state of this chain",
    ),
    "a bound of 0": (
        lambda: fnopt.ClipValue(0.0),
        "ClipValue: max_value must be finite and > 0, got 0.0; leave ClipValue out of chain(…) to disable clipping",
    ),
    "an infinite bound": (
        lambda: ClipNorm(float("inf")),
        "ClipNorm: max_norm must be finite and > 0, got inf; leave ClipNorm out of chain(…) to disable clipping",
    ),
    "a seed that is none": (lambda: fnopt.AddNoise(0.1, seed=-1), "AddNoise: seed must be an int >= 0, got -1"),
    "a step without gradients": (
        lambda: fnopt.make_step(None, sgd),
        "make_step: grad_fn is None, expected value_and_grad(model, loss)",
    ),
    "a step that only transforms": (
        lambda: fnopt.make_step(loss, clip),
        "make_step: ClipNorm only transforms gradients; end it with an Optimizer: chain(ClipNorm(…), SGD(lr))",
    ),
    "a step of a class": (
        lambda: fnopt.make_step(loss, SGD),
        "make_step: got the class SGD, expected an instance; write SGD(…)",
    ),
    "a state of no step": (
        lambda: fnopt.make_step(loss, sgd).step(fnopt.TrainState.of(ones), torch.ones(2)),
        "step: this state has no loss_scale and so is not of a step, expected one from step.init_state(model)",
    ),
    "a seed below 0": (
        lambda: fnopt.make_step(loss, sgd).init_state(ones, seed=-1),
        "init_state: seed must be an int >= 0, got -1",
    ),
    "params of a list": (
        lambda: fnopt.make_step(loss, sgd).init_state([1]),
        "init_state: params must be a dict of tensors, got list; fnopt.params_of(model) makes one",
    ),
    "amsgrad without its memory": (
        lambda: amsgrad.update(ones, AdamW().init_state(ones), ones),
        "AdamW: amsgrad needs a memory that this state lacks; a state belongs to one setting of amsgrad: call "
        "init_state again",
    ),
    "momentum without its memory": (
        lambda: fnopt.RMSprop(momentum=0.9).update(ones, fnopt.RMSprop().init_state(ones), ones),
        "RMSprop: momentum needs a memory that this state lacks; a state belongs to one setting of momentum: call "
        "init_state again",
    ),
    "a mean without its memory": (
        lambda: fnopt.RMSprop(centered=True).update(ones, fnopt.RMSprop().init_state(ones), ones),
        "RMSprop: centered needs a memory that this state lacks; a state belongs to one setting of centered: call "
        "init_state again",
    ),
    "SGD without its memory": (
        lambda: SGD(momentum=0.9).update(ones, sgd.init_state(ones), ones),
        "SGD: momentum needs a memory that this state lacks; a state belongs to one setting of momentum: call "
        "init_state again",
    ),
    "Adam without its memory": (
        lambda: Adam(amsgrad=True).update(ones, Adam().init_state(ones), ones),
        "Adam: amsgrad needs a memory that this state lacks; a state belongs to one setting of amsgrad: call "
        "init_state again",
    ),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_the_whole_message(kind):
    """An error is one sentence: who refuses, what was got, what was expected, and the fix where there is one."""
    provoke, message = MESSAGES[kind]
    with pytest.raises(errors.FnoptError) as caught:
        provoke()
    assert str(caught.value) == message
