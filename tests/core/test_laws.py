"""Every law over every export, found by introspection."""

import pytest
import torch
from hypothesis import given, settings
from law_things import TORCH, VARIANTS, Thing, exports, things

import fnopt
from fnopt import laws
from fnopt.laws.bits import require_same, run
from fnopt.laws.kinds import kind_of

EXPORTS = exports()
QUICK = 15  # cases of each law on each thing


def applicable():
    """One row for each law on each thing that it is for."""
    for name in EXPORTS:
        for place, thing in enumerate(things(name)):
            for law in laws.LAWS.values():
                if law.name not in thing.excused and not law.excuse(thing.made, **thing.drawn):
                    yield pytest.param(law, thing, id=f"{name}{place}-{law.name}")
    for place, thing in enumerate(TORCH):
        for law in laws.LAWS.values():
            if not law.excuse(thing.made, **thing.drawn):
                yield pytest.param(law, thing, id=f"torch{place}-{law.name}")


ROWS = list(applicable())


@pytest.mark.parametrize(("law", "thing"), ROWS)
def test_every_export_obeys_every_law_that_applies(law, thing):
    """The law holds on the thing, on drawn cases, of which few are discarded."""
    finding = laws.try_law(law, thing.made, QUICK, **thing.drawn)
    assert finding.verdict == "holds", finding.note


ZEROS = {"w": torch.zeros(2, dtype=torch.complex64)}
SIGNED = {"w": torch.view_as_complex(torch.tensor([[-0.0, -1.0], [0.0, 0.0]]))}
EMPTY = {"w": torch.zeros(0, 2)}
FOUND = [  # what laws once broke on
    (laws.law_below_the_bound_nothing_changes, fnopt.ClipNorm(2.0), laws.Case(ZEROS, [SIGNED])),
    (laws.law_below_the_bound_nothing_changes, fnopt.ClipParamNorm(2.0), laws.Case(ZEROS, [SIGNED])),
    (laws.law_state_keeps_its_form, fnopt.Adafactor(), laws.Case(EMPTY, [EMPTY])),
]


@pytest.mark.parametrize(("law", "thing", "case"), FOUND, ids=range(len(FOUND)))
def test_what_was_found_once_holds(law, thing, case):
    """The cases that laws once broke on, kept."""
    law(thing, case)


ELEMENTWISE = [row for row in ROWS if row.values[0].run is laws.law_entries_do_not_meet]


@pytest.mark.parametrize("thing", [row.values[1] for row in ELEMENTWISE], ids=[row.id for row in ELEMENTWISE])
def test_a_scalar_is_a_vector_of_one(thing):
    """What that law leaves out, and fnopt promises: 0-d leaves of half precision give the bits of the leaf as [1]."""

    @settings(max_examples=QUICK)
    @given(laws.cases(names=("w",), shapes=[()], dtypes=[torch.bfloat16, torch.float16]))
    def compare(case):
        params, grads = case.fresh()
        vectors = [{"w": tensors["w"].reshape(1)} for tensors in (params, *grads)]
        for scalar, vector in zip(
            run(thing.made, params, grads), run(thing.made, vectors[0], vectors[1:]), strict=True
        ):
            require_same(scalar[0]["w"].reshape(1), vector[0]["w"], "0-d", "as [1]")

    compare()


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_is_tried(name):
    """An export that cannot be made without arguments has an entry in VARIANTS of law_things.py."""
    assert things(name), f"fnopt.{name} needs arguments: add VARIANTS[{name!r}] in tests/core/law_things.py"


def test_introspection_finds_what_steps_and_nothing_else():
    """Rules, transforms, schedules and what builds them are found; entries of the table are all of exports."""
    assert {"SGD", "AdamW", "ClipNorm", "chain", "partition", "freeze", "ema", "cosine", "warmup_cosine"} <= {*EXPORTS}
    assert {"value_and_grad", "accumulate", "sam", "make_step"} <= {*EXPORTS}
    assert not {"TrainState", "DynamicLossScale", "Optimizer", "Schedule", "GradFn", "run"} & {*EXPORTS}
    assert VARIANTS.keys() <= {*EXPORTS}


def test_every_law_applies_to_some_export():
    """No law is about nothing."""
    assert {row.values[0].name for row in ROWS} == laws.LAWS.keys()


def test_excuses_are_laws_with_a_reason():
    """A thing is excused from laws that exist, each for a reason."""
    for name in EXPORTS:
        for thing in things(name):
            assert thing.excused.keys() <= laws.LAWS.keys()
            assert all(thing.excused.values())


def test_laws_are_plain_documented_functions():
    """Each law is a function of fnopt.laws, named law_…, that says one sentence of at most three lines."""
    for name, law in laws.LAWS.items():
        assert getattr(laws, name) is law.run
        assert name.startswith("law_")
        assert law.sentence.endswith(".")
        assert len(law.sentence) < 200


def test_things_of_the_table_are_of_their_kind():
    """Each entry is something that the laws know."""
    for name in EXPORTS:
        assert all(isinstance(thing, Thing) and kind_of(thing.made) for thing in things(name)), name
