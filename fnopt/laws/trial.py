"""One law on one thing: tried on drawn cases, shrunk where it breaks, told as code."""

from typing import Any, Literal, TypeAlias, Unpack, cast

import attrs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable, UnsatisfiedAssumption

from ..errors import UsageError
from .kinds import Kind, kind_of, shown
from .law import BrokenLawError, Law
from .strategies import NAMES, Drawn, calls, cases, steps

Verdict: TypeAlias = Literal["holds", "broken", "does not apply", "excluded"]
MOST_DISCARDED = 0.2
# All: discarding is counted here, slow optimizers are no fault, and a user may check inside a test of their own.
UNHEALTHY: tuple[HealthCheck, ...] = tuple(cast(Any, HealthCheck))


@attrs.frozen
class Profile:
    """How many cases of each law, and whether every run draws the same."""

    max_examples: int
    derandomize: bool


PROFILES = {"ci": Profile(50, derandomize=True), "deep": Profile(2000, derandomize=False)}


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
        return f"{self.verdict:<15} {self.law:<41} {counts}{self.note if not counts else ''}".rstrip()


def profile_of(name: str, max_examples: int | None) -> Profile:
    """The profile of that name, with another number of cases if one is given."""
    if name not in PROFILES:
        raise UsageError(f"laws: there is no profile {name!r}; the profiles are {list(PROFILES)}")
    return PROFILES[name] if max_examples is None else attrs.evolve(PROFILES[name], max_examples=max_examples)


def try_law(
    law: Law, thing: Any, max_examples: int | None = None, profile: str = "ci", **drawn: Unpack[Drawn]
) -> Finding:
    """Try one law on drawn cases, and shrink the case that breaks it."""
    kind, options = kind_of(thing), profile_of(profile, max_examples)
    drawn = completed(kind, drawn)
    if excuse := law.excuse(thing, **drawn):
        return Finding(law.name, "does not apply", note=excuse)
    trial = _Trial(law, thing)
    try:
        trial.search(_drawn_for(kind, law, drawn), options)
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


def completed(kind: Kind, drawn: Drawn) -> Drawn:
    """A stateful optimizer refuses an empty list of parameters: it is tried on two."""
    return {"names": NAMES[:2], **drawn} if kind == "torch optimizer" else drawn


def _drawn_for(kind: Kind, law: Law, drawn: Drawn) -> st.SearchStrategy[Any]:
    if kind == "schedule":
        return steps()
    return calls(**drawn) if kind in ("GradFn", "step") else cases(values=law.values, **drawn)


class _Trial:
    """One law on one thing: how often it was tried, and the last case that broke it."""

    def __init__(self, law: Law, thing: Any):
        self.law, self.thing = law, thing
        self.run = self.discarded = 0
        self.smallest: tuple[object, Exception] | None = None

    def search(self, strategy: st.SearchStrategy[Any], profile: Profile) -> None:
        """Run the law on drawn cases until one breaks it, then on smaller ones."""

        @settings(
            max_examples=profile.max_examples,
            derandomize=profile.derandomize,
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

    def _try(self, case: object) -> None:
        searching = self.smallest is None  # cases of the shrinking phase are not counted
        try:
            self.law.run(self.thing, case, *self.law.others)
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
        case, cause = cast(tuple[object, Exception], self.smallest)
        flaky = "; it does not break on every call" if isinstance(error, Flaky) else ""
        found = str(cause) if isinstance(cause, BrokenLawError) else f"{type(cause).__name__}: {cause}"
        others = "".join(f", {shown(other)}" for other in self.law.others)
        return f"{self.law.sentence}\n  {found}{flaky}\n  {self.law.name}({shown(self.thing)}, {case!r}{others})"
