"""Every law over every export, found by introspection; the drawn cases; check as users call it."""

import re
import subprocess
import sys

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from law_things import TORCH, VARIANTS, Thing, exports, things

import fnopt
from fnopt import SGD, AdamW, laws
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


def drawn(strategy, count=300):
    """What a strategy draws."""
    found = []

    @given(strategy)
    def collect(value):
        found.append(value)

    settings(max_examples=count)(collect)()
    return found


@pytest.mark.parametrize("values", ["any", "finite", "tame"])
def test_drawn_tensors_have_the_edges(values):
    """0-d, empty and transposed ones, all dtypes, both zeros, subnormal numbers; huge and non-finite ones if asked."""
    tensors = drawn(laws.tensors(values=values))
    assert {tuple(x.shape) for x in tensors} == {(), (1,), (3,), (0,), (2, 3)}
    assert {x.dtype for x in tensors} == {torch.float32, torch.float64, torch.bfloat16, torch.float16}
    assert any(not x.is_contiguous() for x in tensors)
    entries = torch.cat([x.flatten().double() for x in tensors])
    assert ((entries == 0) & entries.signbit()).any()
    assert ((entries == 0) & ~entries.signbit()).any()
    assert any(((x != 0) & (x.abs() < torch.finfo(x.dtype).smallest_normal)).any() for x in tensors)
    assert bool(entries.isnan().any() and entries.isinf().any()) == (values == "any")
    assert bool((entries[entries.isfinite()].abs() > 1e30).any()) == (values != "tame")
    assert values != "tame" or entries.abs().max() == 100


def test_drawn_gradients_are_mostly_non_zero():
    """The laws are not about zeros: most entries of most gradients are something else."""
    cases = drawn(laws.cases(values="tame"))
    entries = torch.cat([leaf.flatten().double() for case in cases for grads in case.grads for leaf in grads.values()])
    assert (entries != 0).double().mean() > 0.7
    moved = [any(leaf.any() for leaf in case.grads[0].values()) for case in cases]
    assert sum(moved) > 0.5 * len(moved)


def test_drawn_cases_differ_in_form():
    """No leaf to three, one update to three, gradients in the dtype of params or wider; with names, exactly those."""
    cases = drawn(laws.cases())
    assert {len(case.params) for case in cases} == {0, 1, 2, 3}
    assert {len(case.grads) for case in cases} == {1, 2, 3}
    pairs = {(case.params[name].dtype, leaf.dtype) for case in cases for name, leaf in case.grads[0].items()}
    assert {(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)} <= pairs
    assert {tuple(case.params) for case in drawn(laws.cases(names=("x", "y")), 20)} == {("x", "y")}


@given(st.one_of(laws.cases(), laws.cases(dtypes=(torch.complex64, torch.float16))))
def test_cases_print_as_code(case):
    """The repr of a case is the code that makes it, to the bit and with its strides."""
    again = eval(repr(case), {"torch": torch, "Case": laws.Case})
    for mine, theirs in zip((again.params, *again.grads), (case.params, *case.grads), strict=True):
        require_same(mine, theirs, "again", "as drawn")
        assert [leaf.stride() for leaf in mine.values()] == [leaf.stride() for leaf in theirs.values()]


@given(laws.cases(), st.data())
def test_a_law_leaves_the_case_as_it_was(case, data):
    """A law works on copies: the case that is printed is the case that was drawn."""
    before = repr(case)
    law = data.draw(st.sampled_from([law for law in laws.LAWS.values() if not law.excuse(SGD(0.1))]))
    if law.values == "any":
        law.run(SGD(0.1), case)
    assert repr(case) == before


def test_check_prints_what_holds_and_what_does_not_apply(capsys):
    """check prints one row for each law, with the cases that ran, or why it does not apply; and returns the same."""
    report = laws.check(fnopt.chain(fnopt.ClipNorm(1.0), SGD(0.1)), max_examples=3, exclude=[laws.law_pure])
    printed = capsys.readouterr().out
    assert printed == f"{report}\n"
    assert "holds           law_deterministic                         3 cases, 0 discarded" in printed
    assert "does not apply  law_leaves_do_not_meet                    has scope 'global'" in printed
    assert "excluded        law_pure" in printed
    assert len(report.findings) == sum("optimizer" in law.kinds for law in laws.LAWS.values())
    assert not report.broken


def test_check_takes_a_function_as_a_schedule():
    """A schedule may be a plain function."""
    assert not laws.check(lambda step: 0.1 / (1.0 + step.double()), max_examples=5).broken


REFUSED = [
    (SGD, "got the class SGD, expected an instance; write SGD"),
    (torch.optim.SGD([torch.zeros(1)]), "got a live SGD, expected its class: functools.partial(SGD, lr=…)"),
    (fnopt.value_and_grad(lambda params, batch: params["w"].sum()), "needs model= (or its params) and batch="),
    (torch.nn.Linear(1, 1), "expected an Optimizer"),
    (0.1, "expected an Optimizer"),
    (fnopt.partition({"x": SGD()}, {"a": "x"}), "pass the names=, shapes= or dtypes= it is for"),
]


@pytest.mark.parametrize(("thing", "message"), REFUSED, ids=range(len(REFUSED)))
def test_check_refuses_what_no_law_is_about(thing, message):
    """A class, a stateful optimizer, a module, a number: an error that says what is expected."""
    with pytest.raises(fnopt.errors.UsageError, match=re.escape(message)):
        laws.check(thing)


def test_check_knows_the_laws_to_exclude():
    """A name that is no law is an error that lists them."""
    with pytest.raises(fnopt.errors.UsageError, match=r"no such laws to exclude: \['law_x'\]; the laws are \['law_"):
        laws.check(SGD(), exclude=["law_x"])


def test_a_law_that_discards_its_cases_fails():
    """A law that holds by discarding is reported as broken."""

    def law_of_small_cases(thing, case):
        """A case has at most one leaf."""
        assume(len(case.params) < 2)

    law = laws.Law(law_of_small_cases, ("optimizer",), "any", ())
    finding = laws.try_law(law, SGD(), 50)
    assert finding.verdict == "broken"
    assert "discarded more than 20% of its cases" in finding.note
    assert finding.discarded > 10
    law = laws.Law(lambda thing, case: assume(False), ("optimizer",), "any", ())
    assert laws.try_law(law, SGD(), 50).verdict == "broken"


def test_a_law_can_be_added():
    """`law` registers a function, and leaves it as it is."""
    try:

        @laws.law("transform", values="tame")
        def law_of_mine(thing, case):
            """It is mine."""

        assert laws.LAWS["law_of_mine"].sentence == "It is mine."
        assert law_of_mine(None, None) is None
        assert "law_of_mine" in [finding.law for finding in laws.check(fnopt.ClipNorm(1.0), max_examples=1).findings]
    finally:
        del laws.LAWS["law_of_mine"]


def python(code):
    """The last line that a fresh interpreter prints on stderr."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or [""])[-1]


def test_hypothesis_is_an_extra():
    """`import fnopt` does not import Hypothesis; `fnopt.laws` without it says in one sentence what to install."""
    assert python("import sys, fnopt; sys.exit('hypothesis' in sys.modules and 'it did')") == ""
    blocked = "import sys; sys.modules['hypothesis'] = None; "
    assert python(blocked + "import fnopt; from fnopt import laws").endswith("pip install 'fnopt[laws]'")


def test_things_of_the_table_are_of_their_kind():
    """Each entry is something that the laws know."""
    for name in EXPORTS:
        assert all(isinstance(thing, Thing) and kind_of(thing.made) for thing in things(name)), name


def test_check_as_typed_in_the_docs():
    """The call of the README works as it is typed."""
    assert laws.check(AdamW(0.1), max_examples=2)
