"""`check`: every law that applies, on drawn data; the smallest case that breaks one, as code."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypedDict, Unpack

import attrs

from ..errors import UsageError
from . import torch_optim
from .formulas import law_equals_the_reference
from .kinds import Kind, kind_of, shown
from .law import LAWS, BrokenLawError, Law
from .strategies import Drawn, sample, sample_calls
from .trial import Finding, completed, try_law


class Options(Drawn, TypedDict, total=False):
    """What laws are tried, and on what: see `check`."""

    reference: Any
    exclude: Sequence[str | Callable[..., None]]
    max_examples: int | None
    profile: str


@attrs.frozen
class Report:
    """What `check` found, law by law; prints as a table."""

    thing: str
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The laws that do not hold."""
        return tuple(finding for finding in self.findings if finding.verdict == "broken")

    def __str__(self) -> str:
        rows = sorted(self.findings, key=lambda finding: finding.verdict in ("does not apply", "excluded"))
        notes = [f"\n{finding.law} is broken: {finding.note}" for finding in self.broken]
        return "\n".join([f"laws of {self.thing}", *(f"  {row}" for row in rows), *notes])


def check(thing: Any, **options: Unpack[Options]) -> Report:
    """Try every law that applies, print the table, and return it.

    `thing` is an optimizer, a transform, a schedule, a GradFn, a step, or a class of torch.optim (with arguments:
    `functools.partial(torch.optim.SGD, lr=0.1)`). For GradFns and steps `model=` (or its params) and `batch=` say what
    they are called with. `names=`, `shapes=` and `dtypes=` say which params are drawn, for a thing that does not take
    all: `laws.check(partition(…), names=labels)`. `reference=` is an optimizer that it must agree with, `exclude=`
    lists laws, by name or as functions. `profile="ci"` tries the same 50 cases of each law on every run, "deep" 2,000
    others; `max_examples=` says how many.

    >>> from fnopt import laws
    >>> report = laws.check(fnopt.constant(0.1), max_examples=5, exclude=["law_schedule_is_pure"])
    laws of Constant(value=0.1)
      holds           law_schedule_has_random_access            5 cases, 0 discarded
      holds           law_schedule_gives_one_finite_number      5 cases, 0 discarded
      holds           law_schedule_under_vmap_is_a_loop         5 cases, 0 discarded
      holds           law_schedule_stays_within_its_rates       5 cases, 0 discarded
      excluded        law_schedule_is_pure

    Raises BrokenLawError with the table and, for each broken law, the smallest case that was found, as code.
    """
    report = find(thing, **options)
    print(report)
    if report.broken:
        raise BrokenLawError(str(report))
    return report


def find(thing: Any, **options: Unpack[Options]) -> Report:
    """As `check`, without a word."""
    return Report(shown(thing), tuple(_findings(thing, options)))


def as_tests(thing: Any, **options: Unpack[Options]) -> Callable[..., None]:
    """A pytest test of every law that applies, each shown as a test of its own; options as of `check`.

    >>> from fnopt import laws
    >>> test_my_schedule = laws.as_tests(fnopt.constant(0.1))
    >>> [mark.args[0] for mark in test_my_schedule.pytestmark]
    ['law']
    """
    import pytest

    drawn, excluded, tried = _split(options)
    chosen = [
        law
        for name, law in _laws_of(thing, options)
        if name not in excluded and not law.excuse(thing, **completed(kind_of(thing), drawn))
    ]

    def test_law(law: Law) -> None:
        finding = try_law(law, thing, **tried, **drawn)
        if finding.verdict == "broken":
            raise BrokenLawError(finding.note)

    return pytest.mark.parametrize("law", [pytest.param(law, id=law.name) for law in chosen])(test_law)


def _findings(thing: Any, options: Options) -> Iterator[Finding]:
    drawn, excluded, tried = _split(options)
    for name, law in _laws_of(thing, options):
        yield Finding(name, "excluded") if name in excluded else try_law(law, thing, **tried, **drawn)


def _laws_of(thing: Any, options: Options) -> Iterator[tuple[str, Law]]:
    """The laws of things of this kind, and that of the reference."""
    kind, (drawn, _, _) = kind_of(thing), _split(options)
    _probe(thing, completed(kind, drawn))
    yield from ((name, law) for name, law in LAWS.items() if kind in law.kinds)
    if (reference := options.get("reference")) is not None:
        kind_of(reference)  # refuses what is no instance
        kinds: tuple[Kind, ...] = ("optimizer", "transform", "torch optimizer")
        yield law_equals_the_reference.__name__, Law(law_equals_the_reference, kinds, "calm", (), (reference,))


def _split(options: Options) -> tuple[Drawn, set[str], dict[str, Any]]:
    """How cases are drawn, which laws are excluded, and how the others are tried."""
    exclude = options.get("exclude", ())
    excluded = {entry if isinstance(entry, str) else entry.__name__ for entry in exclude}
    if unknown := sorted(excluded - LAWS.keys() - {law_equals_the_reference.__name__}):
        raise UsageError(f"laws.check: no such laws to exclude: {unknown}; the laws are {list(LAWS)}")
    known = Options.__annotations__
    if strange := sorted(options.keys() - known.keys()):
        raise UsageError(f"laws.check: no such options: {strange}; the options are {sorted(known)}")
    drawn: Any = {name: value for name, value in options.items() if name in Drawn.__annotations__}
    tried = {name: value for name, value in options.items() if name in ("max_examples", "profile")}
    return drawn, excluded, tried


def _probe(thing: Any, drawn: Drawn) -> None:
    """Does the thing take what will be drawn?"""
    kind = kind_of(thing)
    if kind == "schedule":
        return
    if kind in ("GradFn", "step"):
        state, (batch,) = sample_calls(**drawn).begin(thing)
        (thing.step if kind == "step" else thing)(state, batch)
        return
    params = sample(**drawn)
    try:
        if kind == "torch optimizer":
            torch_optim.Live(thing, params)
        else:
            thing.init_state(params)
    except UsageError:
        raise
    except Exception as error:
        forms = {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in params.items()}
        verb = "refuses" if kind == "torch optimizer" else "init_state refuses"
        raise UsageError(
            f"laws.check: {verb} params of {forms}: {error}; pass the names=, shapes= or dtypes= it is for"
        ) from error
