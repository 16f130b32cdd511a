"""`check`: every law that applies, on drawn data; the smallest case that breaks one, as code."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, Unpack, cast

import attrs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable, UnsatisfiedAssumption

from ..errors import UsageError
from .case import Case, Steps
from .law import LAWS, BrokenLawError, Law, kind_of
from .strategies import Drawn, cases, sample, steps

Verdict: TypeAlias = Literal["holds", "broken", "does not apply", "excluded"]
MOST_DISCARDED = 0.2
# All: discarding is counted here, slow optimizers are no fault, and a user may check inside a test of their own.
UNHEALTHY: tuple[HealthCheck, ...] = tuple(cast(Any, HealthCheck))


@attrs.frozen
class Finding:
    """What became of one law: how many cases ran, how many were discarded, and what there is to say."""

    law: str
    verdict: Verdict
    run: int = 0
    discarded: int = 0
    note: str = ""

    def __str__(self) -> str:
        counts = f"{self.run} cases, {self.discarded} discarded" if self.verdict in ("holds", "broken") else ""
        return f"{self.verdict:<15} {self.law:<38} {counts}{self.note if not counts else ''}".rstrip()


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


def check(
    thing: Any, *, exclude: Sequence[str | Callable[..., None]] = (), max_examples: int = 50, **drawn: Unpack[Drawn]
) -> Report:
    """Try every law that applies to an optimizer, a transform or a schedule; print the table, and return it.

    `exclude` lists laws, by name or as functions. `names=`, `shapes=` and `dtypes=` say which params are drawn, for a
    thing that does not take all: `laws.check(partition(…), names=labels)`. Whether every run draws the same cases is
    up to the Hypothesis profile that is loaded (`derandomize`).

    >>> from fnopt import laws
    >>> report = laws.check(fnopt.constant(0.1), max_examples=5, exclude=["law_schedule_is_pure"])
    laws of Constant(value=0.1)
      holds           law_schedule_has_random_access         5 cases, 0 discarded
      holds           law_schedule_gives_one_finite_number   5 cases, 0 discarded
      holds           law_schedule_under_vmap_is_a_loop      5 cases, 0 discarded
      excluded        law_schedule_is_pure

    Raises BrokenLawError with the table and, for each broken law, the smallest case that was found, as code.
    """
    excluded = {entry if isinstance(entry, str) else entry.__name__ for entry in exclude}
    if unknown := sorted(excluded - LAWS.keys()):
        raise UsageError(f"laws.check: no such laws to exclude: {unknown}; the laws are {list(LAWS)}")
    kind = kind_of(thing)
    if kind != "schedule":
        _probe(thing, drawn)
    findings = tuple(
        Finding(name, "excluded") if name in excluded else try_law(law, thing, max_examples, **drawn)
        for name, law in LAWS.items()
        if kind in law.kinds
    )
    report = Report(repr(thing), findings)
    print(report)
    if report.broken:
        raise BrokenLawError(str(report))
    return report


def try_law(law: Law, thing: Any, max_examples: int = 50, **drawn: Unpack[Drawn]) -> Finding:
    """Try one law on drawn cases, and shrink the case that breaks it."""
    if excuse := law.excuse(thing, **drawn):
        return Finding(law.name, "does not apply", note=excuse)
    strategy = steps() if "schedule" in law.kinds else cases(values=law.values, **drawn)
    trial = _Trial(law, thing)
    try:
        trial.search(strategy, max_examples)
    except Unsatisfiable:
        pass  # all cases were discarded
    except Exception as error:  # whatever a thing raises in the domain of a law breaks it
        if trial.smallest is None:
            raise
        return Finding(law.name, "broken", trial.run, trial.discarded, trial.story(error))
    most = MOST_DISCARDED * (trial.run + trial.discarded)
    if trial.discarded > most:
        note = f"it discarded more than {MOST_DISCARDED:.0%} of its cases; draw what is in its domain"
        return Finding(law.name, "broken", trial.run, trial.discarded, note)
    return Finding(law.name, "holds", trial.run, trial.discarded)


class _Trial:
    """One law on one thing: how often it was tried, and the last case that broke it."""

    def __init__(self, law: Law, thing: Any):
        self.law, self.thing = law, thing
        self.run = self.discarded = 0
        self.smallest: tuple[Case | Steps, Exception] | None = None

    def search(self, strategy: st.SearchStrategy[Any], max_examples: int) -> None:
        """Run the law on drawn cases until one breaks it, then on smaller ones."""

        @settings(
            max_examples=max_examples,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=UNHEALTHY,
        )
        @given(strategy)
        def searching(case: Any) -> None:
            self._try(case)

        searching()

    def _try(self, case: Case | Steps) -> None:
        searching = self.smallest is None  # cases of the shrinking phase are not counted
        try:
            self.law.run(self.thing, case)
        except UnsatisfiedAssumption:
            self.discarded += searching
            raise
        except Exception as error:
            self.run += searching
            self.smallest = (case, error)
            raise
        self.run += searching

    def story(self, error: Exception) -> str:
        """What must hold, what was found instead, and the call that shows it."""
        case, cause = cast(tuple[Case | Steps, Exception], self.smallest)
        flaky = "; it does not break on every call" if isinstance(error, Flaky) else ""
        found = str(cause) if isinstance(cause, BrokenLawError) else f"{type(cause).__name__}: {cause}"
        return f"{self.law.sentence}\n  {found}{flaky}\n  {self.law.name}({self.thing!r}, {case!r})"


def _probe(thing: Any, drawn: Drawn) -> None:
    params = sample(**drawn)
    try:
        thing.init_state(params)
    except Exception as error:
        forms = {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in params.items()}
        raise UsageError(
            f"laws.check: init_state refuses params of {forms}: {error}; pass the names=, shapes= or dtypes= it is for"
        ) from error
