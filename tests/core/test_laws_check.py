"""check, as_tests and the rest, as users call them."""

import functools
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import assume

import fnopt
from fnopt import SGD, AdamW, laws


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


def test_check_as_typed_in_the_docs():
    """The call of the README works as it is typed."""
    assert laws.check(AdamW(0.1), max_examples=2)


def step():
    """A step, and how it is called."""
    grad_fn = fnopt.value_and_grad(lambda params, x: ((params["w"] * x).square().sum(), len(x)))
    return fnopt.make_step(grad_fn, SGD(0.1)), {
        "model": {"w": torch.ones(2)},
        "batch": torch.ones(3, 2),
    }


def test_check_takes_a_step_and_its_grad_fn():
    """Laws of calls run on what takes a state and a batch; others do not show."""
    made, called = step()
    report = laws.check(made, max_examples=3, **called)
    assert {"law_nonfinite_never_enters", "law_two_clocks"} <= {finding.law for finding in report.findings}
    report = laws.check(made.grad_fn, max_examples=3, **called)
    assert [f.law for f in report.findings if f.verdict == "does not apply"] == []
    assert "law_gradients_of_examples_add_up" in [finding.law for finding in report.findings]


def test_check_takes_a_class_of_torch_optim(capsys):
    """A class, with arguments or without, prints as code that can be pasted."""
    dtypes = [torch.float32]
    assert not laws.check(torch.optim.SGD, max_examples=3, dtypes=dtypes).broken
    made = functools.partial(torch.optim.Adam, lr=0.1)
    assert not laws.check(made, reference=fnopt.Adam(0.1), max_examples=3, dtypes=dtypes).broken
    assert "laws of functools.partial(torch.optim.adam.Adam, lr=0.1)" in capsys.readouterr().out


def test_torch_in_half_precision_divides_zero_by_zero():
    """In float16 an eps of 1e-8 is 0, and a gradient that was always 0 gives nan; here it moves nothing."""
    law = laws.LAWS["law_zero_gradients_move_nothing"]
    finding = laws.try_law(law, torch.optim.Adam, dtypes=[torch.float16])
    assert "to torch.tensor(torch.nan, dtype=torch.float16)" in finding.note
    assert laws.try_law(law, fnopt.Adam(), dtypes=[torch.float16]).verdict == "holds"


def test_a_reference_is_part_of_the_code_that_is_printed():
    """The call in the report has the reference as its third argument."""
    with pytest.raises(laws.BrokenLawError) as caught:
        laws.check(SGD(0.1), reference=SGD(0.2), exclude=list(laws.LAWS))
    call = str(caught.value).splitlines()[-1].strip()
    names = {"SGD": SGD, "torch": torch, "Case": laws.Case, "law_equals_the_reference": laws.law_equals_the_reference}
    with pytest.raises(laws.BrokenLawError, match="so it is by the reference"):
        eval(call, names)


def test_as_tests_has_a_test_for_each_law_that_applies():
    """One parameter for each law, named after it; those that are excluded or do not apply are not there."""
    test = laws.as_tests(SGD(0.1), exclude=["law_pure"], max_examples=3)
    (mark,) = test.pytestmark
    ids = [row.id for row in mark.args[1]]
    report = laws.check(SGD(0.1), exclude=["law_pure"], max_examples=3)
    assert ids == [finding.law for finding in report.findings if finding.verdict == "holds"]
    for row in mark.args[1][:3]:
        assert test(*row.values) is None


def test_a_broken_law_fails_its_test():
    """The test of a law that is broken raises with the smallest case."""

    class Ascends:
        scope = "element"
        lr = 0.1

        def init_state(self, params):
            return {}

        def update(self, grads, state, params):
            return {name: p + self.lr * grads[name].to(p.dtype) for name, p in params.items()}, state

    thing = Ascends()
    thing.lr = 0.1
    test = laws.as_tests(thing)
    row = next(row for row in test.pytestmark[0].args[1] if row.id == "law_descends_on_a_quadratic")
    with pytest.raises(laws.BrokenLawError, match=r"(?s)brings? p nearer.*law_descends_on_a_quadratic\(.*Case\("):
        test(*row.values)


@pytest.mark.parametrize("options", [{"max_example": 3}, {"profile": "fast"}])
def test_an_unknown_option_is_named(options):
    """A misspelt option or profile is an error that lists those there are."""
    with pytest.raises(
        fnopt.errors.UsageError, match=r"max_example'\]; the options are|'fast'; the profiles are \['ci'"
    ):
        laws.check(SGD(0.1), **options)


def test_profiles_differ_in_number_and_in_repetition():
    """ "ci" draws the same cases on every run, "deep" other ones."""

    def seen(profile):
        """The first numbers that a law sees."""
        found = []

        def law_of_mine(thing, case):
            """It looks."""
            found.append(repr(case))

        finding = laws.try_law(laws.Law(law_of_mine, ("optimizer",), "tame", ()), SGD(0.1), 20, profile)
        assert finding.run == 20
        return found

    assert seen("ci") == seen("ci")
    assert seen("deep") != seen("deep")
    assert laws.trial.PROFILES["ci"].max_examples < laws.trial.PROFILES["deep"].max_examples
