"""Negative controls: every law catches the things that break it, and passes the sound ones that they are made from."""

import law_controls as broken
import pytest
import torch

import fnopt
from fnopt import SGD, AdamW, ClipNorm, ClipValue, chain, laws
from fnopt._torch import inside_transform

PAIR = {"names": ("a", "b")}

CONTROLS = {
    "law_pure": [
        broken.WritesToItsState,
        broken.WritesTheSameValues,
        broken.EmptiesItsGrads,
        broken.CountsInATensor,
        broken.RemembersParamsThemselves,
        broken.ReturnsOneTensorTwice,
        broken.DrawsNoise,
    ],
    "law_deterministic": [broken.CountsInPython, broken.DrawsNoiseAndHidesIt],
    "law_leaves_keep_their_form": [
        broken.LeaksFloat64,
        broken.AnswersInTheDtypeOfGrads,
        broken.DropsAKey,
        broken.SortsItsKeys,
        broken.ReturnsAnotherMapping,
        broken.RequiresGrad,
        broken.FlattensScalars,
    ],
    "law_state_keeps_its_form": [
        broken.GrowsItsState,
        broken.GrowsItsStateOnTheSecondUpdate,
        broken.CountsAsAnInt,
        broken.RemembersInTheDtypeOfGrads,
        broken.KeepsAList,
        broken.KeysByNumber,
        broken.LooksAtParamsFirst,
    ],
    "law_step_counts_updates": [broken.ForgetsToCount, broken.CountsFromOne, broken.CountsInFloats],
    "law_vmap_is_loop": [broken.AsksATensor, broken.IsOtherUnderVmap],
    "law_members_have_their_own_numbers": [broken.ReadsItsNumber, broken.SharesItsNumber],
    "law_zero_lr_moves_nothing": [broken.DecaysWithoutLr, broken.MovesByAFloor],
    "law_order_of_names_does_not_matter": [broken.KnowsPlaces],
    "law_leaves_do_not_meet": [broken.NormalizesByTheWhole],
    "law_entries_do_not_meet": [broken.NormalizesByTheLeaf, broken.KnowsTheFirstEntry],
    "law_sums_are_over_all_entries": [broken.GlobalByLeaf],
    "law_chain_is_a_monoid": [broken.nested_chain],
    "law_partition_is_separate_runs": [broken.partition_that_meets],
    "law_frozen_never_moves": [broken.freeze_that_decays, broken.freeze_that_remembers],
    "law_average_stays_within": [broken.ema_from_zero, broken.ema_that_overshoots],
    "law_norm_is_bounded": [broken.ClipsByMean, broken.ClipsEachLeaf],
    "law_clipping_keeps_the_direction": [broken.ClipsEntries, broken.Squashes, broken.AlwaysNormalizes],
    "law_below_the_bound_nothing_changes": [broken.AlwaysNormalizes, broken.Squashes, broken.ClipsFromBelow],
    "law_entries_are_bounded": [broken.ClampsOneSide, broken.ClampsTheMagnitude, broken.ClampsNanAway],
    "law_entries_within_the_bound_stay": [broken.TanhClamp],
    "law_clipping_twice_is_clipping_once": [broken.Squashes, broken.TanhClamp],
    "law_schedule_is_pure": [broken.StepsTheClock, broken.Draws],
    "law_schedule_has_random_access": [broken.CountsItself, broken.Jitters],
    "law_schedule_gives_one_finite_number": [
        broken.ReturnsAFloat,
        broken.ReturnsAVector,
        broken.ReturnsAnInt,
        broken.EndsInNan,
    ],
    "law_schedule_under_vmap_is_a_loop": [broken.AsksTheStep, broken.IsOtherInVmap],
}
ROWS = [pytest.param(name, make, id=f"{name}-{make.__name__}") for name, made in CONTROLS.items() for make in made]


@pytest.mark.parametrize(("name", "make"), ROWS)
def test_a_law_catches_what_breaks_it(name, make):
    """The law is broken, and the finding says what it demands, and shows a small case as code."""
    finding = laws.try_law(laws.LAWS[name], make(), 100, **(PAIR if make in broken.NAMED else {}))
    assert finding.verdict == "broken"
    assert finding.note.startswith(laws.LAWS[name].sentence)
    assert f"{name}(" in finding.note
    assert "Case(params=" in finding.note or "Steps(steps=" in finding.note


def test_every_law_has_a_control():
    """A law that nothing is known to break proves nothing."""
    assert CONTROLS.keys() == laws.LAWS.keys()


@pytest.mark.parametrize("make", [broken.Sound, broken.Clip, broken.Clamp, broken.Decay])
def test_the_sound_ones_pass(make):
    """What the broken ones are made from obeys every law: it is the break that is caught."""
    assert not laws.check(make(), max_examples=30).broken


def test_check_reports_the_law_and_a_shrunk_case(capsys):
    """check raises with the table, the sentence of the law, and a case of one leaf and one update."""
    with pytest.raises(laws.BrokenLawError) as caught:
        laws.check(broken.DecaysWithoutLr())
    message = str(caught.value)
    assert isinstance(caught.value, AssertionError)
    assert message in capsys.readouterr().out
    assert message.count("  broken ") == 1
    assert "law_zero_lr_moves_nothing is broken: With lr = 0, its own and that of its parts" in message
    assert "with lr = 0, update 0 moved w from torch.tensor(1.0) to torch.tensor(0.99)" in message
    assert message.endswith("Case(params={'w': torch.tensor(1.0)}, grads=[{'w': torch.tensor(0.0)}]))")


def test_the_case_that_is_printed_breaks_the_law():
    """The call in the report, pasted, raises the same error."""
    law, thing = laws.LAWS["law_leaves_do_not_meet"], broken.NormalizesByTheWhole()
    call = laws.try_law(law, thing, 100).note.splitlines()[-1].strip()
    case = call[call.index("Case(") : -1]
    with pytest.raises(laws.BrokenLawError, match="among the other leaves it is this"):
        law.run(thing, eval(case, {"torch": torch, "Case": laws.Case}))


def test_an_error_of_the_thing_breaks_the_law():
    """Whatever a thing raises where a law holds is a finding, with the type of the error."""
    finding = laws.try_law(laws.LAWS["law_vmap_is_loop"], broken.AsksATensor(), 50)
    assert "RuntimeError: " in finding.note


def test_what_breaks_only_sometimes_is_reported():
    """A thing that counts its calls may obey when it is called again; the finding stands, and says so if it saw it."""
    finding = laws.try_law(laws.LAWS["law_deterministic"], broken.BreaksOnce(), 50)
    assert finding.verdict == "broken"
    assert "it does not break on every call" in finding.note


def in_place(a, value, b):
    """What torch's own optimizers do."""
    return a.add_(b, alpha=value)


def root_mean_square(tensors):
    """A norm that does not grow with the number of entries."""
    count = sum(leaf.numel() for leaf in tensors.values())
    return fnopt.tensors.global_norm(tensors) / max(1, count) ** 0.5


def as_computed(output, leaf):
    """Results that are not rounded to the dtype of their leaf."""
    return output if leaf.ndim else output.reshape(())


def last_part_only(self, grads, state, params):
    """A chain that forgets all parts but the last."""
    *before, (name, last) = [(name, part) for name, part in zip(state, self.transforms, strict=True)]
    result, new = last.transform(grads, state[name], params)
    return result, {**{name: state[name] for name, _ in before}, name: new}


def of_another_label(self, tag, tensors):
    """The parameters of all labels but one's own."""
    return {name: leaf for name, leaf in tensors.items() if self.labels[name] != tag}


def root_inside_transforms(x):
    """A square root that is safe to differentiate, and wrong."""
    return torch.sqrt(x) + 0.1 * inside_transform()


TWO = chain(ClipValue(1.0), ClipNorm(0.5))
SWAPPED = [
    ("law_pure", "fnopt.rules.sgd.scaled_add", in_place, SGD(0.1), {}),
    ("law_leaves_keep_their_form", "fnopt.tensors._leave", as_computed, SGD(0.1), {}),
    ("law_state_keeps_its_form", "fnopt.tensors._leave", as_computed, AdamW(), {}),
    ("law_step_counts_updates", "fnopt.rules.adamw.first_step", lambda params: torch.ones(()), AdamW(), {}),
    ("law_vmap_is_loop", "fnopt.rules.adamw.sqrt", root_inside_transforms, AdamW(0.1), {}),
    ("law_norm_is_bounded", "fnopt.transforms.clip.global_norm", root_mean_square, ClipNorm(1.0), {}),
    (
        "law_leaves_do_not_meet",
        "fnopt.transforms.chain.widest",
        lambda parts: "element",
        chain(ClipNorm(1.0), SGD()),
        {},
    ),
    ("law_chain_is_a_monoid", "fnopt.transforms.chain.ChainedTransform.transform", last_part_only, TWO, {}),
    ("law_average_stays_within", "fnopt.rules.ema.at", lambda step, decay: (1.5,), fnopt.ema(SGD(0.1), 0.9), {}),
    (
        "law_partition_is_separate_runs",
        "fnopt.rules.partition.Partition._of",
        of_another_label,
        fnopt.partition({"x": SGD(0.1), "y": SGD(0.2)}, {"a": "x", "b": "y"}),
        PAIR,
    ),
]


@pytest.mark.parametrize(("name", "target", "wrong", "thing", "drawn"), SWAPPED, ids=[row[1] for row in SWAPPED])
def test_a_law_catches_a_mistake_in_fnopt(monkeypatch, name, target, wrong, thing, drawn):
    """The law holds on the export, and is broken as soon as one function of fnopt is."""
    assert laws.try_law(laws.LAWS[name], thing, 50, **drawn).verdict != "broken"
    monkeypatch.setattr(target, wrong)
    assert laws.try_law(laws.LAWS[name], thing, 50, **drawn).verdict == "broken"
