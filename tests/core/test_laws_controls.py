"""Negative controls: every law catches the things that break it, and passes the sound ones that they are made from."""

import broken_formulas as formulas
import broken_rules as rules
import broken_schedules as schedules
import broken_steps as steps
import broken_structure as structure
import broken_torch as stateful
import broken_transforms as transforms
import broken_wrappers as wrappers
import pytest
import torch

import fnopt
from fnopt import laws
from fnopt.laws.kinds import kind_of

PAIR = {"names": ("a", "b")}

CONTROLS = {
    "law_pure": [
        rules.WritesToItsState,
        rules.WritesTheSameValues,
        rules.EmptiesItsGrads,
        rules.CountsInATensor,
        rules.RemembersParamsThemselves,
        rules.ReturnsOneTensorTwice,
        rules.DrawsNoise,
    ],
    "law_deterministic": [rules.CountsInPython, rules.DrawsNoiseAndHidesIt],
    "law_leaves_keep_their_form": [
        structure.LeaksFloat64,
        structure.AnswersInTheDtypeOfGrads,
        structure.DropsAKey,
        structure.SortsItsKeys,
        structure.ReturnsAnotherMapping,
        structure.RequiresGrad,
        structure.FlattensScalars,
    ],
    "law_state_keeps_its_form": [
        structure.GrowsItsState,
        structure.GrowsItsStateOnTheSecondUpdate,
        structure.CountsAsAnInt,
        structure.RemembersInTheDtypeOfGrads,
        structure.KeepsAList,
        structure.KeysByNumber,
        structure.LooksAtParamsFirst,
    ],
    "law_step_counts_updates": [structure.ForgetsToCount, structure.CountsFromOne, structure.CountsInFloats],
    "law_vmap_is_loop": [rules.AsksATensor, rules.IsOtherUnderVmap],
    "law_members_have_their_own_numbers": [rules.ReadsItsNumber, rules.SharesItsNumber],
    "law_zero_lr_moves_nothing": [rules.DecaysWithoutLr, rules.MovesByAFloor],
    "law_order_of_names_does_not_matter": [rules.KnowsPlaces],
    "law_leaves_do_not_meet": [rules.NormalizesByTheWhole],
    "law_entries_do_not_meet": [rules.NormalizesByTheLeaf, rules.KnowsTheFirstEntry],
    "law_sums_are_over_all_entries": [transforms.GlobalByLeaf],
    "law_chain_is_a_monoid": [wrappers.nested_chain],
    "law_partition_is_separate_runs": [wrappers.partition_that_meets],
    "law_frozen_never_moves": [wrappers.freeze_that_decays, wrappers.freeze_that_remembers],
    "law_average_stays_within": [wrappers.ema_from_zero, wrappers.ema_that_overshoots],
    "law_norm_is_bounded": [transforms.ClipsByMean, transforms.ClipsEachLeaf],
    "law_clipping_keeps_the_direction": [transforms.ClipsEntries, transforms.Squashes, transforms.AlwaysNormalizes],
    "law_below_the_bound_nothing_changes": [
        transforms.AlwaysNormalizes,
        transforms.Squashes,
        transforms.ClipsFromBelow,
    ],
    "law_entries_are_bounded": [transforms.ClampsOneSide, transforms.ClampsTheMagnitude, transforms.ClampsNanAway],
    "law_entries_within_the_bound_stay": [transforms.TanhClamp],
    "law_clipping_twice_is_clipping_once": [transforms.Squashes, transforms.TanhClamp],
    "law_schedule_is_pure": [schedules.StepsTheClock, schedules.Draws],
    "law_schedule_has_random_access": [schedules.CountsItself, schedules.Jitters],
    "law_schedule_gives_one_finite_number": [
        schedules.ReturnsAFloat,
        schedules.ReturnsAVector,
        schedules.ReturnsAnInt,
        schedules.EndsInNan,
    ],
    "law_schedule_under_vmap_is_a_loop": [schedules.AsksTheStep, schedules.IsOtherInVmap],
    "law_gradients_stay_as_they_were": [stateful.CentralizesInPlace, stateful.DropsGradients],
    "law_eval_params_are_shaped_as_params": [wrappers.ema_that_leaks_its_dtype],
    "law_names_do_not_matter": [rules.KnowsNames],
    "law_memory_goes_by_name": [rules.RemembersByPlace],
    "law_zero_gradients_move_nothing": [rules.MovesWithoutAGradient],
    "law_negated_gradients_move_the_other_way": [rules.PrefersADirection],
    "law_descends_on_a_quadratic": [rules.Ascends],
    "law_gradients_move_the_state": [rules.ForgetsItsMemory],
    "law_schedules_are_read_at_the_count": [rules.ReadsAStaleClock],
    "law_hypergradients_are_finite": [rules.DividesByARoot],
    "law_decay_is_as_documented": [formulas.L2InPlaceOfDecoupled, formulas.DecaysAfterTheStep],
    "law_scale_of_gradients_does_not_matter": [formulas.FixedEps],
    "law_saved_state_comes_back": [structure.GrowsItsState, structure.KeepsAList],
    "law_resumed_is_continued": [rules.CountsInPython, stateful.CountsWhereNoFileLooks],
    "law_resumed_step_is_continued": [steps.stepping(steps.CountsInPython)],
    "law_schedule_stays_within_its_rates": [schedules.Overshoots],
    "law_call_is_a_function": [
        steps.DrawsFromTheGlobalGenerator,
        steps.WritesToTheBatch,
        steps.stepping(steps.CountsInPython),
    ],
    "law_gradients_are_shaped_as_params": [steps.AnswersInHalf, steps.DropsAKey],
    "law_gradients_of_examples_add_up": [steps.MeanOfMeans, steps.means_as_sums],
    "law_no_examples_count_nothing": [steps.WeighsAtLeastOne],
    "law_loss_scale_is_invisible": [steps.ForgetsToUnscale],
    "law_packed_is_plain": [rules.KnowsTheFirstEntry],
    "law_compiled_is_eager": [steps.compiled_for_one_position],
    "law_nonfinite_never_enters": [steps.stepping(steps.SkipsByMultiplication), steps.stepping(steps.CountsSkips)],
    "law_overflow_is_forgotten": [steps.stepping(steps.RemembersTheSkip)],
    "law_no_examples_change_nothing": [steps.stepping(steps.DecaysOnNothing)],
    "law_two_clocks": [steps.stepping(steps.CountsSkips), steps.stepping(steps.ForgetsToMoveOn)],
    "law_step_is_one_update_along_the_mean": [steps.stepping(steps.StepsAlongTheSum)],
}
CALLED = {"MeanOfMeans": steps.LISTED}  # how the others are called: with one batch
WRONG = [
    formulas.WrongBiasCorrection,
    formulas.SwappedBetas,
    formulas.L2InPlaceOfDecoupled,
    formulas.DecaysAfterTheStep,
    formulas.EpsInsideTheRoot,
]


def drawn_for(make):
    """How the cases of a broken thing are drawn."""
    if make in wrappers.NAMED:
        return PAIR
    calls = CALLED.get(make.__name__, steps.CALLED)
    return calls if kind_of(made_by(make)) in ("GradFn", "step") else {}


def made_by(make):
    """The broken thing: a class of torch.optim is one itself."""
    return make if isinstance(make, type) and issubclass(make, torch.optim.Optimizer) else make()


ROWS = [pytest.param(name, make, id=f"{name}-{make.__name__}") for name, made in CONTROLS.items() for make in made]


@pytest.mark.parametrize(("name", "make"), ROWS)
def test_a_law_catches_what_breaks_it(name, make):
    """The law is broken, and the finding says what it demands, and shows a small case as code."""
    finding = laws.try_law(laws.LAWS[name], made_by(make), 100, **drawn_for(make))
    assert finding.verdict == "broken"
    assert finding.note.startswith(laws.LAWS[name].sentence)
    assert f"{name}(" in finding.note
    assert any(f"{case}(" in finding.note for case in ("Case", "Steps", "Calls"))


def test_every_law_has_a_control():
    """A law that nothing is known to break proves nothing."""
    assert CONTROLS.keys() == laws.LAWS.keys()


@pytest.mark.parametrize("make", [rules.Sound, formulas.Formula, transforms.Clip, transforms.Clamp, schedules.Decay])
def test_the_sound_ones_pass(make):
    """What the broken ones are made from obeys every law: it is the break that is caught."""
    assert not laws.check(make(), max_examples=30).broken


@pytest.mark.parametrize("make", [steps.Sound, steps.sound_step])
def test_the_sound_gradfn_and_step_pass(make):
    """What the broken GradFns and steps are made from obeys every law."""
    assert not laws.check(make(), max_examples=30, **steps.CALLED).broken


@pytest.mark.parametrize("make", WRONG)
def test_a_reference_catches_a_wrong_formula(make):
    """AdamW with one wrong line is not the reference, in either direction; the sound one is."""
    reference = fnopt.AdamW(0.1, betas=(0.9, 0.99))
    assert not laws.check(formulas.Formula(), reference=reference, exclude=list(laws.LAWS)).broken
    for thing, other in ((make(), reference), (reference, make())):
        with pytest.raises(laws.BrokenLawError, match="law_equals_the_reference is broken: Every update is that of"):
            laws.check(thing, reference=other, exclude=list(laws.LAWS))


def test_check_reports_the_law_and_a_shrunk_case(capsys):
    """check raises with the table, the sentence of the law, and a case of one leaf and one update."""
    with pytest.raises(laws.BrokenLawError) as caught:
        laws.check(rules.MovesByAFloor())
    message = str(caught.value)
    assert isinstance(caught.value, AssertionError)
    assert message in capsys.readouterr().out
    assert message.count("  broken ") == 1
    assert "law_zero_lr_moves_nothing is broken: With lr = 0, its own and that of its parts" in message
    assert "with lr = 0, update 0 moved w from torch.tensor(0.0) to torch.tensor(-0.001)" in message
    assert message.endswith("Case(params={'w': torch.tensor(0.0)}, grads=[{'w': torch.tensor(1.0)}]))")


def test_the_case_that_is_printed_breaks_the_law():
    """The call in the report, pasted, raises the same error."""
    law, thing = laws.LAWS["law_leaves_do_not_meet"], rules.NormalizesByTheWhole()
    call = laws.try_law(law, thing, 100).note.splitlines()[-1].strip()
    case = call[call.index("Case(") : -1]
    with pytest.raises(laws.BrokenLawError, match="among the other leaves it is this"):
        law.run(thing, eval(case, {"torch": torch, "Case": laws.Case}))


def test_an_error_of_the_thing_breaks_the_law():
    """Whatever a thing raises where a law holds is a finding, with the type of the error."""
    finding = laws.try_law(laws.LAWS["law_vmap_is_loop"], rules.AsksATensor(), 50)
    assert "RuntimeError: " in finding.note


def test_what_breaks_only_sometimes_is_reported():
    """A thing that counts its calls may obey when it is called again; the finding stands, and says so if it saw it."""
    finding = laws.try_law(laws.LAWS["law_deterministic"], rules.BreaksOnce(), 50)
    assert finding.verdict == "broken"
    assert "it does not break on every call" in finding.note
