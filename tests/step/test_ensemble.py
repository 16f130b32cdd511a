"""An ensemble is its members, one by one: their numbers, their skips, their randomness."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cases import identical, make_batch, make_model, squared, untouched

import fnopt
from fnopt import AdamW, ClipNorm, DynamicLossScale, TrainState, chain, ema, ensemble, stack, unstack
from fnopt.errors import FnoptError, HyperparameterError, StructureError, UsageError

SIZE = 3
LRS = torch.tensor([0.01, 0.03, 0.1])
NORMS = torch.tensor([0.1, 1.0, 10.0])
DECAYS = torch.tensor([0.0, 0.1, 0.5])


def rule(lr=LRS, max_norm=NORMS, decay=DECAYS):
    """An optimizer whose numbers differ from member to member, at three depths."""
    return ema(chain(ClipNorm(max_norm), AdamW(lr=lr, weight_decay=decay)), 0.9)


def stepping(optimizer, kind="mlp", wrap=lambda grad_fn: grad_fn, loss_scale=None):
    """A step of this model."""
    return fnopt.make_step(wrap(fnopt.value_and_grad(make_model(kind, 0), squared)), optimizer, loss_scale=loss_scale)


def models(kind="mlp"):
    """As many models as there are members, with weights of their own."""
    return [make_model(kind, seed) for seed in range(SIZE)]


def close(a, b, bound=1e-6):
    """All tensors of two states agree within the bound, relative to the largest entry; integers to the bit."""
    for mine, theirs in zip(torch.utils._pytree.tree_leaves(a), torch.utils._pytree.tree_leaves(b), strict=True):
        largest = theirs.abs().max() if theirs.numel() else 0
        assert mine.dtype == theirs.dtype
        assert ((mine - theirs).abs() <= (bound * largest if theirs.is_floating_point() else 0)).all()


@given(st.sampled_from(["mlp", "shared", "partial", "assigning"]), st.integers(0, 99), st.booleans())
@settings(max_examples=12)
def test_each_member_is_the_run_alone(kind, seed, lists):
    """From the same state and batch, member k is the step with its own numbers, to 1e-6, every step."""
    wrap = fnopt.accumulate if lists else (lambda grad_fn: grad_fn)
    together = ensemble(stepping(rule(), kind, wrap, DynamicLossScale(growth_interval=1)), SIZE)
    members = [
        stepping(
            rule(*(numbers[k] for numbers in (LRS, NORMS, DECAYS))), kind, wrap, DynamicLossScale(growth_interval=1)
        )
        for k in range(SIZE)
    ]
    state = together.init_state(models(kind), seed=seed)
    for alone, member, model in zip(unstack(state), members, models(kind), strict=True):
        close(alone, member.init_state(model, seed=seed), 0)
    for number in range(3):
        batch = [make_batch(seed + number), make_batch(seed, 5)] if lists else make_batch(seed + number)
        with untouched(state, batch):
            new, metrics = together.step(state, batch)
        results = [member.step(alone, batch) for member, alone in zip(members, unstack(state), strict=True)]
        for (expected, theirs), got, k in zip(results, unstack(new), range(SIZE), strict=True):
            close(got, expected)
            close({name: metrics[name][k] for name in theirs}, theirs)
        state = new


def test_a_nonfinite_member_leaves_the_others_as_they_are():
    """Where one member overflows, it alone is skipped; the others have the bits that they have beside a sound one."""
    together = ensemble(stepping(rule(), loss_scale=DynamicLossScale()), SIZE, batch="own")
    good = stack([TrainState.of({"x": x, "y": y}) for x, y in (make_batch(seed) for seed in range(SIZE))]).params
    bad = {**good, "x": good["x"].clone()}
    bad["x"][1] = torch.inf
    state = together.init_state(models())
    clean, _ = together.step(state, (good["x"], good["y"]))
    spoilt, metrics = together.step(state, (bad["x"], bad["y"]))
    assert metrics["skipped"].tolist() == [0, 1, 0]
    assert spoilt.updates.tolist() == [1, 0, 1]
    assert spoilt.loss_scale["scale"].tolist() == [65536.0, 32768.0, 65536.0]
    before, after, beside = unstack(state), unstack(spoilt), unstack(clean)
    assert identical(after[1].params, before[1].params)
    assert identical(after[1].opt_state, before[1].opt_state)
    for k in (0, 2):
        assert identical(after[k], beside[k])


def test_members_draw_apart_and_again():
    """With dropout, members of equal weights part, two runs of one seed are equal, and another seed is another run."""

    def train(seed):
        together = ensemble(stepping(AdamW(0.1), "dropout"), SIZE)
        state = together.init_state(make_model("dropout", 0), seed=seed)
        for number in range(2):
            state, _ = together.step(state, make_batch(number))
        return state

    first = train(0)
    assert identical(first, train(0))
    assert not identical(first.params, train(1).params)
    weights = first.params["0.weight"]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_one_model_is_every_member():
    """A single module or dict of params begins every member, which then owns its memory."""
    together = ensemble(stepping(rule()), SIZE)
    state = together.init_state(make_model("mlp", 4))
    assert all(identical(member.params, fnopt.params_of(make_model("mlp", 4))) for member in unstack(state))
    for leaf in torch.utils._pytree.tree_leaves(state):
        assert not leaf.ndim or not leaf.numel() or leaf.is_contiguous()
    params = fnopt.params_of(make_model("mlp", 4))
    assert identical(together.init_state(params).params, state.params)


def test_stack_and_unstack_are_inverse():
    """What is stacked comes apart as it was, in memory of its own."""
    step = stepping(rule(*(numbers[0] for numbers in (LRS, NORMS, DECAYS))))
    states = [step.step(step.init_state(model, seed=3), make_batch(1))[0] for model in models()]
    whole = stack(states)
    with untouched(whole):
        apart = unstack(whole)
        assert all(map(identical, apart, states))
        apart[0].params["0.weight"].zero_()


def test_eval_params_are_those_of_each_member():
    """The averages of all members, stacked."""
    together = ensemble(stepping(rule()), SIZE)
    state, _ = together.step(together.init_state(models()), make_batch(0))
    averages = together.eval_params(state)
    assert identical(averages, state.opt_state["ema"])
    assert not identical(averages, state.params)


def test_an_ensemble_runs_and_is_saved(tmp_path):
    """`run` drives it, until the member that is furthest is there; a checkpoint holds all members."""
    together = ensemble(stepping(rule()), SIZE)
    data = fnopt.Batches(torch.utils.data.TensorDataset(*make_batch(0, 16)), batch_size=4, seed=0)
    *_, (state, metrics) = fnopt.run(together, together.init_state(models()), data, updates=5)
    assert state.updates.tolist() == [5] * SIZE
    assert metrics["loss"].shape == (SIZE,)
    path = fnopt.save_checkpoint(tmp_path / "members.safetensors", state)
    assert identical(fnopt.load_checkpoint(path, like=together.init_state(models())), state)


STEP = stepping(AdamW(0.1))
REFUSED = [
    (lambda: ensemble(AdamW(), 3), UsageError, "expected a step; make one with make_step"),
    (lambda: ensemble(fnopt.compiled(STEP), 3), UsageError, "the order is compiled(ensemble(step, size))"),
    (lambda: ensemble(STEP, 0), HyperparameterError, "size must be an int >= 1, got 0"),
    (lambda: ensemble(STEP, 3, batch="mine"), HyperparameterError, "batch must be 'shared' or 'own', got 'mine'"),
    (
        lambda: ensemble(stepping(AdamW(LRS)), 4),
        StructureError,
        "shape [3], expected [] (shared by all members) or [4]",
    ),
    (lambda: ensemble(STEP, 2).init_state(models()), StructureError, "init_state got 3 models, expected 2 or one"),
    (
        lambda: ensemble(STEP, 2).init_state([make_model("mlp", 0), make_model("dropout", 0)]),
        StructureError,
        "model 1 is not like model 0",
    ),
    (
        lambda: ensemble(STEP, 3, batch="own").step(ensemble(STEP, 3).init_state(models()), make_batch(0)),
        StructureError,
        "first dimension is the 3 members, got shape [8, 4]",
    ),
    (lambda: stack([]), StructureError, "stack: got no states"),
    (
        lambda: stack([TrainState.of({"w": torch.zeros(1)}), TrainState.of({"w": torch.zeros(2)})]),
        StructureError,
        "states [1] are not like state 0",
    ),
    (lambda: unstack(TrainState.of({})), StructureError, "this state is of a single run"),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_fit_is_one_sentence(wrong, kind, message):
    """Another size, order or structure: what was got, what was expected, what to write."""
    with pytest.raises(kind) as caught:
        wrong()
    assert message in str(caught.value)
    assert isinstance(caught.value, FnoptError)
