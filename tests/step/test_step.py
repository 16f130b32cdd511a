"""make_step: one update equals torch's own loop, is pure, and keeps two clocks."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cases import MODELS, identical, make_batch, make_model, nonfinite_loss, portrait, squared, tensors, untouched
from torch import nn

from fnopt import (
    SGD,
    Adam,
    AdamW,
    ClipNorm,
    accumulate,
    chain,
    ema,
    evolve,
    linear,
    make_step,
    value_and_grad,
)
from fnopt.randomness import mix, seeded

laws = settings(max_examples=5)
seeds = st.integers(0, 2**31)
CPU = torch.device("cpu")
RULES = {
    "sgd": (SGD, lambda p, lr: torch.optim.SGD(p, lr, foreach=False)),
    "nesterov": (
        lambda lr: SGD(lr, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True, weight_decay=0.01, foreach=False),
    ),
    "adam": (Adam, lambda p, lr: torch.optim.Adam(p, lr, foreach=False)),
    "adamw": (AdamW, lambda p, lr: torch.optim.AdamW(p, lr, foreach=False)),
}


class Peer:
    """Torch's own loop: mean loss, backward, perhaps clip, step."""

    def __init__(self, model, make, lr, seed, clip=None):
        self.model, self.clip, self.seed, self.calls = copy.deepcopy(model), clip, seed, 0
        self.optimizer = make(self.trained(), lr)

    def trained(self):
        return [p for p in self.model.parameters() if p.requires_grad]

    def load(self, state):
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_({**state.params, **state.buffers}[name])

    def step(self, batch):
        self.optimizer.zero_grad(set_to_none=False)
        with seeded(mix(self.seed, self.calls), CPU):
            loss, weight = squared(self.model, batch)
        (loss / weight).backward()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.trained(), self.clip, foreach=False)
        for p in self.trained():  # a parameter that is not used has zeros here too
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        self.optimizer.step()
        self.calls += 1
        return (loss / weight).detach()

    def params(self):
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}


@laws
@given(seeds, st.sampled_from([2, 4, 8]), st.sampled_from([0.01, 1e-3]))
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", MODELS)
def test_a_step_is_torchs_loop_to_the_bit(kind, rule, seed, n, lr):
    """Eight float32 updates: params, buffers and losses have the bits of torch's loop, where n is a power of two.

    Then seed 1/n, times n, divided by n is exact; of any other n it is not, see the next law.
    """
    model = make_model(kind, seed)
    ours, theirs = RULES[rule]
    step = make_step(value_and_grad(model, squared), ours(lr))
    state, peer = step.init_state(model, seed=seed), Peer(model, theirs, lr, seed)
    for place in range(8):
        batch = make_batch(seed + place, n)
        state, metrics = step.step(state, batch)
        assert identical(metrics["loss"], peer.step(batch))
        assert int(metrics["skipped"]) == 0  # torch's loop would not have skipped
    assert identical(state.params, peer.params())
    assert identical(
        {k: v for k, v in state.buffers.items() if k in dict(peer.model.named_buffers())},
        {name: buffer.detach() for name, buffer in peer.model.named_buffers()},
    )
    assert any(
        not identical(leaf, p.detach()) for leaf, p in zip(state.params.values(), model.parameters(), strict=False)
    )


@laws
@given(seeds, st.integers(1, 9), st.floats(0.01, 10.0))
@pytest.mark.parametrize("clipped", [False, True])
def test_a_step_is_torchs_loop_with_any_weight(clipped, seed, n, max_norm):
    """With any n, and clipping, one SGD step from the same params differs by roundings of the gradient only.

    (g n) / n rounds twice, so |dp| <= lr |g| 2^-22 and one rounding of p. Clipping: torch divides by norm + 1e-6, so
    its gradients are smaller by 1e-6 / norm, and the norm itself is rounded, 4 times 2^-24 for these sizes.
    """
    model, lr = make_model("mlp", seed), 0.1
    optimizer = chain(ClipNorm(max_norm), SGD(lr)) if clipped else SGD(lr)
    step = make_step(value_and_grad(model, squared), optimizer)
    state = step.init_state(model)
    peer = Peer(model, RULES["sgd"][1], lr, 0, max_norm if clipped else None)
    for place in range(4):
        peer.load(state)
        batch = make_batch(seed + place, n)
        new, metrics = step.step(state, batch)
        peer.step(batch)
        slack = 2**-22 + (1e-6 / metrics["grad_norm"] + 2**-21 if clipped else 0)
        for name, p in peer.params().items():
            moved = (new.params[name] - state.params[name]).abs()
            bound = moved * slack + 2**-22 * p.abs() + 2**-22 * moved.max()
            assert ((new.params[name] - p).abs() <= bound).all()
        state = new


def busy(model, seed):
    """A step with everything in it, and its first state."""
    optimizer = chain(ClipNorm(0.5), ema(AdamW(linear(0.1, 0.01, steps=4)), 0.9))
    step = make_step(accumulate(value_and_grad(model, squared)), optimizer)
    return step, step.init_state(model, seed=seed)


@laws
@given(seeds, st.booleans())
@pytest.mark.parametrize("kind", MODELS)
def test_a_step_is_pure(kind, seed, overflows):
    """No input is written to; the same call gives the same bits; the model stays as it was, also when it skips."""
    model = make_model(kind, seed)
    step, state = busy(model, seed)
    batches = [make_batch(seed, 3), make_batch(seed + 1, 5)]
    if overflows:
        batches.append((make_batch(seed)[0], make_batch(seed)[1] * float("inf")))
    before, generator = portrait(model), torch.get_rng_state()
    with untouched(state, batches):
        first = step.step(state, batches)
        torch.rand(3)
        second = step.step(state, batches)
    torch.set_rng_state(generator)
    assert identical(first, second)
    assert portrait(model) == before
    assert int(first[1]["skipped"]) == overflows
    with untouched(first):
        step.step(first[0], batches)


@laws
@given(seeds)
@pytest.mark.parametrize("kind", MODELS)
def test_a_state_owns_its_memory(kind, seed):
    """No two tensors of a first state share memory, with each other or with the module: whoever writes harms none."""
    model = make_model(kind, seed)
    _, state = busy(model, seed)
    leaves = [leaf for leaf in tensors(state) if leaf.numel()]
    owners = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    assert len(owners) == len(leaves)
    assert not owners & {leaf.untyped_storage().data_ptr() for leaf in (*model.parameters(), *model.buffers())}
    own = {"w": torch.ones(3), "b": torch.ones(1)}
    state = make_step(value_and_grad(lambda p, x: (p["w"].sum(), 1)), SGD(0.1, momentum=0.9)).init_state(own)
    assert not {leaf.data_ptr() for leaf in tensors(state)} & {leaf.data_ptr() for leaf in own.values()}


# Two clocks


@laws
@given(seeds, st.lists(st.sampled_from(["good", "inf", "empty"]), min_size=1, max_size=8))
def test_two_clocks(seed, plan):
    """Without dropout, skipped steps (overflow, no weight) could as well not have been: schedules, bias correction and
    averages stand still with `updates`; only `position` and the loss scale's memory have moved.
    """
    model = make_model("batch_norm", seed)

    def loss(model, batch):
        return squared(model, batch[:2])[0], batch[2]

    optimizer = chain(
        ClipNorm(linear(2.0, 0.1, steps=5)), ema(AdamW(linear(0.1, 0.01, steps=4)), linear(0.5, 0.9, steps=3))
    )
    step = make_step(value_and_grad(model, loss), optimizer)
    state = all_steps = step.init_state(model)
    for place, what in enumerate(plan):
        x, y = make_batch(seed + place)
        batch = (x * float("inf"), y, 8) if what == "inf" else (x, y, 8 * (what == "good"))
        all_steps, metrics = step.step(all_steps, batch)
        assert int(metrics["skipped"]) == (what != "good")
        if what == "good":
            state, alone = step.step(state, batch)
            assert identical(metrics["lr"], alone["lr"])
    skipped = sum(what != "good" for what in plan)
    assert all_steps.position == len(plan)
    assert int(all_steps.updates) == len(plan) - skipped
    assert int(all_steps.loss_scale["skipped"]) == skipped
    assert identical(evolve(all_steps, position=state.position, loss_scale=state.loss_scale), state)


@pytest.mark.parametrize(("kind", "skipped"), [("good", 0), ("loss", 1), ("gradient", 1)])
def test_either_makes_a_step_skipped(kind, skipped):
    """A loss that is not finite is enough, though its gradient is; and the other way round."""
    step = make_step(value_and_grad(nonfinite_loss), SGD(0.5))
    state = step.init_state({"w": torch.ones(2)})
    new, metrics = step.step(state, kind)
    assert [int(metrics["skipped"]), int(new.updates)] == [skipped, 1 - skipped]
    assert identical(new.params, {"w": torch.full((2,), 1.0 if skipped else 0.5)})


def test_position_moves_dropout_on():
    """The same batch at the next position drops other entries, whether the step before was skipped or not."""
    model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 4))
    step = make_step(value_and_grad(model, squared), SGD(0.0))
    state = step.init_state(model)
    batch, bad = make_batch(0), (make_batch(0)[0] * float("inf"), make_batch(0)[1])
    after_skip, _ = step.step(state, bad)
    losses = [step.step(each, batch)[1]["loss"].item() for each in (state, after_skip, evolve(state, position=2))]
    assert len(set(losses)) == 3
