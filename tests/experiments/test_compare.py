"""`compare`: what it says of the distance to torch.optim is true, and a wrong rule does not pass for a right one."""

import attrs
import pytest
import torch
from experiment_cases import task

import fnopt
from fnopt.errors import UsageError
from fnopt.experiments import compare as experiment
from fnopt.experiments.compare import COMPILED, DROP_IN, EAGER, PEER, RULES, Rule, compare
from fnopt.experiments.measure import differing, peak, ulps
from fnopt.experiments.programs import ByStep, ByTorch, in_turns, refuse_fallback


@fnopt.record
class EpsInside(fnopt.AdamW):
    """A wrong AdamW: eps under the root."""

    def update(self, grads, state, params):
        """As AdamW, with sqrt(v + eps) in the place of sqrt(v) + eps."""
        right, new = super().update(grads, state, params)
        t, (b1, b2) = state["step"] + 1, self.betas
        lr = self.lr(state["step"]) if callable(self.lr) else self.lr
        wrong = {}
        for name, p in params.items():
            m, v = new["exp_avg"][name] / (1 - b1**t), new["exp_avg_sq"][name] / (1 - b2**t)
            wrong[name] = (p * (1 - lr * self.weight_decay) - lr * m / torch.sqrt(v + self.eps)).to(right[name])
        return wrong, new


def wrong_rule():
    """torch's AdamW against that one."""
    pure = lambda lr, decay: EpsInside(lr=lr, betas=(0.9, 0.99), weight_decay=decay)  # noqa: E731
    return Rule("AdamW", 2e-2, pure, RULES[0].peer)


@pytest.mark.parametrize("micro_batches", [None, 2])
def test_eager_rules_and_drop_ins_have_the_bits_of_torch(micro_batches):
    """AdamW and SGD, pure and as drop-in, with decay groups: 0 ulp at every update, no bit differs, equal losses."""
    found = compare(task(micro_batches=micro_batches), 25, compile=False)
    assert found.rules() == ["AdamW", "SGD"]
    for rule in found.rules():
        theirs, *ours = found.of(rule)
        assert [theirs.program, *(side.program for side in ours)] == [PEER, EAGER, DROP_IN]
        assert min(theirs.losses) < theirs.losses[0]
        for side in ours:
            assert side.ulps == [0.0] * 25
            assert side.differing == 0
            assert (side.losses, side.held_out) == (theirs.losses, theirs.held_out)
    assert str(found).count("0 ulp at each of 25 updates") == 4
    assert "NOT" not in str(found)


def test_a_wrong_rule_is_not_0_ulp():
    """An AdamW with eps under the root is at a distance from its first update on, and the text says so."""
    found = compare(task(), 10, rules=[wrong_rule()], compile=False)
    (_, ours) = found.of("AdamW")
    assert min(ours.ulps) > 0
    assert ours.differing > 0
    assert "AdamW, fnopt, eager: NOT 0 ulp, at 10 of 10 updates" in str(found)


def test_a_distance_that_comes_and_goes_is_told(monkeypatch):
    """Params that were apart at one update only are not called equal."""
    calls = iter([0.0, 0.0, 0.0, 3.0, 0.0, 0.0])  # of three updates, torch's own and ours
    monkeypatch.setattr(experiment, "ulps", lambda *_: next(calls))
    found = compare(task(), 3, rules=[attrs.evolve(RULES[1], drop_in=None)], compile=False)
    assert "SGD, fnopt, eager: NOT 0 ulp, at 1 of 3 updates" in str(found)


def test_what_makes_bits_differ_is_said():
    """A clip that acts, and a weight that is no power of two, each have a sentence."""
    found = compare(task(batch_size=3), 5, rules=RULES[1:], clip=0.1, compile=False)
    assert "clip: torch divides by norm + 1e-6" in str(found)
    assert "a micro-batch has 3 samples, no power of two" in str(found)
    assert max(found.sides[1].ulps) > 0


def test_the_model_of_a_task_is_left_alone():
    """Experiments train copies."""
    work = task()
    before = {name: p.clone() for name, p in work.model.named_parameters()}
    compare(work, 3, compile=False)
    assert all(torch.equal(before[name], p) for name, p in work.model.named_parameters())
    assert all(p.grad is None for p in work.model.parameters())


@pytest.mark.parametrize("exponent", [-20, 0, 7])
def test_ulps_counts_units_in_the_last_place(exponent):
    """k steps of nextafter from the largest entry are k ulp, at any exponent; other signs of zero are 0 ulp, 1 bit."""
    x = torch.tensor([1.5 * 2.0**exponent, 0.0])
    near = x.clone()
    for k in range(1, 4):
        near = torch.nextafter(near, torch.tensor([torch.inf, 0.0]))
        assert ulps({"w": near}, {"w": x}) == k
    assert differing({"w": near}, {"w": x}) == 1
    signed = {"w": torch.tensor([1.5 * 2.0**exponent, -0.0])}
    assert ulps(signed, {"w": x}) == 0
    assert differing(signed, {"w": x}) == 1


def test_peak_counts_what_is_alive_at_once():
    """Of 3 MB that are freed one by one 1 MB is the peak; of 3 MB held together, 3 MB."""

    def one_by_one():
        for _ in range(3):
            torch.zeros(250_000)

    assert peak(one_by_one, torch.device("cpu")) == 1_000_000
    assert peak(lambda: [torch.zeros(250_000) for _ in range(3)], torch.device("cpu")) == 3_000_000


def test_held_is_weights_and_memory_of_the_rule():
    """AdamW holds the weights and two moments; a step of fnopt holds the module's own weights, too."""
    work = task()
    size = 4 * sum(p.numel() for p in work.model.parameters())
    theirs = ByTorch(work, RULES[0].peer, [1e-3], 0.1)
    step = fnopt.make_step(work.grad_fn(), fnopt.AdamW())
    ours = ByStep(work, step)
    list(in_turns(work, {"theirs": theirs, "ours": ours}, 1))
    assert 3 * size <= theirs.held() < 3 * size + 200
    assert 4 * size <= ours.held() < 4 * size + 200


def test_programs_take_turns_to_begin():
    """On each item all programs train once, and each begins as often as the others."""
    order = []

    class Told:
        def __init__(self, name):
            self.name = name

        def update(self, item):
            order.append((self.name, item[0][0].sum().item()))
            return 0.0

    list(in_turns(task(), {name: Told(name) for name in "abc"}, 6))
    assert "".join(name for name, _ in order) == "abcbcacab" * 2
    assert all(len({seen for _, seen in order[i : i + 3]}) == 1 for i in range(0, 18, 3))


def test_what_is_not_compiled_is_refused():
    """A compiled step that fell back is an error, not a row under a wrong name."""
    work = task()
    step = fnopt.compiled(fnopt.make_step(work.grad_fn(), fnopt.SGD(0.1)))
    step.engine.stats.mode, step.engine.stats.fallback = "eager", "no compiler"
    with pytest.raises(UsageError, match=r"runs eagerly \(no compiler\), expected kernels; add --eager"):
        refuse_fallback(step)


@pytest.mark.slow
def test_the_compiled_step_is_near_and_not_equal():
    """Kernels sum in another order: a distance above 0, and the same loss to a millionth after 25 updates."""
    found = compare(task(), 25)
    for rule in found.rules():
        (side,) = [side for side in found.of(rule) if side.program == COMPILED]
        assert max(side.ulps) > 0
        assert side.losses == pytest.approx(found.of(rule)[0].losses, rel=1e-5)
    assert "NOT" not in str(found)
