"""`sweep`: its members are the single runs, its best cell is theirs, and what it prints of time was measured."""

import math

import attrs
import pytest
import torch
from experiment_cases import task

import fnopt
from fnopt.experiments.sweep import (
    by_step,
    clock_of,
    grid,
    in_slices,
    one_by_one,
    optimizer_of,
    spread,
    sweep,
    together,
)
from fnopt.experiments.sweep_result import Cell, Run

CELLS = grid([3e-3, 3e-2, 3e-1], [0.3], [0.05, 1.0])
UPDATES = 8


def members(work, cells=CELLS, updates=UPDATES):
    """The runs of these cells as one ensemble."""
    runs = []
    assert len(list(together(work, cells, updates, False, runs))) == updates
    return runs


def alone(work, cell, updates=UPDATES, nudge=0.0):
    """The losses of one run of that cell, from first weights that are larger by that part."""
    params = {name: p * (1 + nudge) for name, p in fnopt.params_of(work.model).items()}
    step = fnopt.make_step(work.grad_fn(), optimizer_of(work, cell, updates))
    state = step.init_state(params)
    return [float(metrics["loss"]) for _, metrics in fnopt.run(step, state, work.data, updates)]


def test_a_member_is_its_single_run():
    """In float64 each loss of a member is that of its run, within the rounding of all sums so far, amplified.

    An update rounds sums of at most n = 40 terms (the inputs of a layer; a mean over 8 samples), in some 60 operations:
    each relative error is below n 2^-53, so what enters up to update T is below 60 T n 2^-53. What comes of an error is
    measured: the same run from weights that are larger by 1e-7 gives the factor. It is taken 10 times, as errors have
    other directions than that one.
    """
    work = task(dtype=torch.float64)
    runs = members(work)
    for run in runs:
        single, nudged = alone(work, run.cell), alone(work, run.cell, nudge=1e-7)
        factor = 1 + 10 * max(abs(a - b) for a, b in zip(single, nudged, strict=True)) / 1e-7
        bound = 60 * UPDATES * 40 * 2.0**-53 * factor
        assert bound < 1e-7
        assert max(abs(a - b) for a, b in zip(single, run.losses, strict=True)) <= bound


def test_a_member_with_a_number_of_its_neighbour_is_found():
    """The bound of that test has power: a decay that is off by a millionth is outside of it."""
    work, cell = task(dtype=torch.float64), Cell(3e-2, 1.0, 1.0)
    near = attrs.evolve(cell, weight_decay=1.0 + 1e-6)
    assert abs(alone(work, cell)[-1] - alone(work, near)[-1]) > 1e-8


def test_every_number_reaches_its_member():
    """Cells that differ in one number only end at different losses, all of them."""
    runs = members(task(), grid([1e-2, 2e-2], [0.0, 1.0], [0.05, 1.0]), 3)
    assert len({run.losses[-1] for run in runs}) == len(runs) == 8


def test_best_cell_is_the_best_of_single_runs():
    """The cell that is called best is the one whose single run ends with the least held-out loss; all were made."""
    work = task()
    found = sweep(work, CELLS, UPDATES, compile=False)
    assert "about" not in str(found)
    losses = []
    list(one_by_one(work, CELLS, UPDATES, by_step(False), losses))
    ends = dict(zip(CELLS, losses, strict=True))
    assert found.best.cell == min(ends, key=ends.get)
    assert found.best.held_out == pytest.approx(min(ends.values()), rel=1e-5)
    assert str(found).count("*") == 2  # in the map, and in the line below
    assert f"* best: {found.best.cell}" in str(found)


def test_what_diverged_is_never_best():
    """A loss that is not finite is shown as none, and is worse than any other."""
    runs = [Run(Cell(0.1, 0.0, 1.0), [2.0, math.nan], math.nan, 3), Run(Cell(0.2, 0.0, 1.0), [2.0, 9.0], 9.0, 0)]
    found = sweep(task(), CELLS[:2], 1, compile=False, alone=1)
    found = attrs.evolve(found, runs=runs)
    assert found.best is runs[1]
    assert "none" in str(found)
    assert math.isnan(found.rows()[0]["held_out"])


def test_clocks_say_what_was_measured_and_what_was_not():
    """The whole is the first update, which compiles, and the median for all others, also of runs that were not made."""
    first, other = [5.0, 1.0, 1.0], [1.0, 1.0, 1.0]
    for made in (6, 3):
        clock = clock_of("x", [first, *[other] * (made - 1)], wanted=6, runs=made)
        assert (clock.runs, clock.first, clock.update, clock.whole) == (made, 5.0, 1.0, 5.0 + (6 * 3 - 1) * 1.0)
    found = sweep(task(), CELLS, 3, compile=False, alone=2)
    (line,) = [line for line in str(found).splitlines() if line.startswith("one after another, eager")]
    assert "2 of 6" in line
    assert "about" in line


@pytest.mark.parametrize("length", [1, 7, 100])
def test_ways_go_on_in_turns(length):
    """Each way runs to its end, and none is further ahead of another than a fiftieth of its length, and one update."""
    told = []

    def track(name, count):
        for place in range(1, count + 1):
            told.append((name, place / count))
            yield float(place)

    lengths = {"a": length, "b": 3 * length}
    made = in_slices({name: track(name, count) for name, count in lengths.items()}, lengths)
    assert made == {name: [float(place) for place in range(1, count + 1)] for name, count in lengths.items()}
    done = {"a": 0.0, "b": 0.0}
    for name, part in told:
        done[name] = part
        assert abs(done["a"] - done["b"]) <= 1 / 50 + 1 / length


def test_spread_has_the_first_and_the_last():
    """So many different places, in order."""
    for count in range(1, 9):
        for wanted in range(1, 12):
            places = spread(count, wanted)
            assert len(places) == min(count, wanted)
            assert places == sorted(set(places))
            assert wanted == 1 or places[-1] == count - 1


@pytest.mark.slow
def test_the_compiled_ensemble_ends_where_single_runs_do():
    """Kernels and eager agree on the best cell, and on held-out losses to a thousandth at low rates."""
    work, cells = task(), grid([3e-3, 1e-2], [0.0, 1.0], [0.05, 1.0])
    found, eager = sweep(work, cells, UPDATES), sweep(work, cells, UPDATES, compile=False)
    assert found.best.cell == eager.best.cell
    for one, other in zip(found.runs, eager.runs, strict=True):
        assert one.held_out == pytest.approx(other.held_out, abs=1e-3)
    assert all(clock.apart < 1e-3 for clock in found.clocks)
    assert [clock.name for clock in found.clocks][:2] == ["one ensemble, compiled", "one after another, compiled"]
