"""What the laws say of other libraries: torch.optim, TorchOpt, pytorch_optimizer and HeavyBall.

Runs every law that applies (profile ci: the same 50 cases on every run) on a few optimizers of each library that is
installed, in float32 and float64, then in bfloat16, then in float16. Prints a table and, for each broken law, what was
found and the smallest case. What is known about a finding stands beside it, from audit_notes.py.

    python tests/bench/audit.py [--examples N] [--out docs/audit.md]

The peers are no dependencies of fnopt: install them in an environment of their own. Takes about ten minutes.
"""

import argparse
import importlib.metadata
import re
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import attrs
import hypothesis
import torch
from audit_notes import INTRO, LEFT_OUT, NOTES
from audit_peers import FALSE_ALARMS, LIBRARIES, Subject

from fnopt import laws
from fnopt.laws.bits import run
from fnopt.laws.check import find
from fnopt.laws.kinds import kind_of, shown
from fnopt.laws.torch_optim import class_of
from fnopt.laws.trial import Finding

PASSES = {
    "float32, float64": (torch.float32, torch.float64),
    "bfloat16": (torch.bfloat16,),
    "float16": (torch.float16,),
}
MAIN = "float32, float64"


@attrs.frozen
class Audited:
    """What became of one optimizer: what it refuses, and what each law says of it in each pass."""

    name: str
    subject: Subject
    refused: dict[str, str]
    findings: dict[str, tuple[Finding, ...]]

    def broken(self, label: str) -> list[Finding]:
        """The laws that broke in this pass, and in none before."""
        earlier = {f.law for other in PASSES if other != label and before(other, label) for f in self.broken(other)}
        found = self.findings.get(label, ())
        return [finding for finding in found if finding.verdict == "broken" and finding.law not in earlier]

    def count(self, verdict: str) -> int:
        """How many laws have this verdict in the main pass."""
        return sum(finding.verdict == verdict for finding in self.findings[MAIN])


def before(label: str, other: str) -> bool:
    """Does this pass come before the other?"""
    return list(PASSES).index(label) < list(PASSES).index(other)


def examine(subject: Subject, examples: int | None = None) -> Audited:
    """All laws that apply, on what the optimizer does not refuse."""
    refused = refusals(subject)
    shapes = tuple(shape for shape in subject.shapes if f"shape {shape}" not in refused)
    options = {"shapes": shapes, "exclude": list(subject.excused), "max_examples": examples}
    if kind_of(subject.made) == "torch optimizer":
        options["names"] = ("w", "b")
    findings = {
        label: find(subject.made, dtypes=dtypes, reference=subject.reference, **options).findings
        for label, dtypes in PASSES.items()
        if not any(str(dtype) in refused for dtype in dtypes)
    }
    return Audited(short(subject.made), subject, refused, findings)


def refusals(subject: Subject) -> dict[str, str]:
    """The shapes and dtypes on which two plain updates raise, and what they raise."""
    found: dict[str, str] = {}
    dtypes = [dtype for dtypes in PASSES.values() for dtype in dtypes]
    tried = {f"shape {shape}": torch.ones(shape) for shape in subject.shapes}
    tried |= {str(dtype): torch.ones(subject.shapes[-1], dtype=dtype) for dtype in dtypes}
    for what, leaf in tried.items():
        try:
            list(run(subject.made, {"w": leaf}, [{"w": leaf.clone()}, {"w": leaf.clone()}]))
        except Exception as error:  # whatever a peer raises
            found[what] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found


def short(made: Any) -> str:
    """The expression that makes it, without modules."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in getattr(made, "keywords", {}).items())
    name = getattr(class_of(made), "__name__", repr(made))
    return f"{name}({arguments})" if arguments else name


def page(audited: dict[str, list[Audited]], examples: int | None) -> str:
    """The whole page."""
    every = [(library, one) for library, several in audited.items() for one in several]
    return "\n".join([
        INTRO.strip(), "",
        "## What was run", "", *versions(audited, examples), "",
        "## The table", "", *table(every), "",
        "## What was found", "", *broken(every),
        "## What they refuse", "", *refused(every), "",
        "## What was left out", "", LEFT_OUT.strip(), "", *left_out(every), "",
    ])  # fmt: skip


def versions(audited: dict[str, list[Audited]], examples: int | None) -> Iterator[str]:
    """The libraries, those that are missing too."""
    for library in LIBRARIES:
        held = f"{len(audited[library])} optimizers" if library in audited else "not installed: no rows below"
        yield f"- {library} {version(library)}: {held}".replace("  ", " ")
    yield f"- Hypothesis {hypothesis.__version__}, {examples or 50} cases of each law, the same on every run"


def version(library: str) -> str:
    """Of the distribution, without its build."""
    try:
        return importlib.metadata.version(library).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


def table(every: list[tuple[str, Audited]]) -> Iterator[str]:
    """One row for each optimizer."""
    yield f"| library | optimizer | held | not tried | broken in {MAIN} | only in bfloat16 | only in float16 |"
    yield "|---|---|---|---|---|---|---|"
    for library, one in every:
        names = [", ".join(finding.law.removeprefix("law_") for finding in one.broken(label)) for label in PASSES]
        held, absent = one.count("holds"), one.count("does not apply") + one.count("excluded")
        yield f"| {library} | `{one.name}` | {held} | {absent} | {' | '.join(name or '-' for name in names)} |"


def broken(every: list[tuple[str, Audited]]) -> Iterator[str]:
    """Law by law: who breaks it, the smallest case, and what is known; of findings known as one, the shortest case."""
    groups: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for library, one in every:
        for label in PASSES:
            for finding in one.broken(label):
                who, told = f"{library} `{one.name}` ({label})", story(finding, one)
                known = note(who, finding.law) or f"Not judged yet: {who}."
                groups.setdefault(finding.law, {}).setdefault(known, []).append((who, told))
    for law in [law for law in [*laws.LAWS, "law_equals_the_reference"] if law in groups]:
        yield from (f"### {law}", "", laws.Law(getattr(laws, law), (), "any", ()).sentence, "")
        for known, several in groups[law].items():
            owner, told = min(several, key=lambda pair: len(pair[1]))
            others = f"; the shortest case is that of {owner}" if len({told for _, told in several}) > 1 else ""
            yield from (f"{', '.join(who for who, _ in several)}{others}:", "", "```text", told, "```", "")
            yield from (*textwrap.wrap(known, 120, break_long_words=False, break_on_hyphens=False), "")


def story(finding: Finding, one: Audited) -> str:
    """What was found, and the call that shows it, without names of temporary folders."""
    _, *lines = [re.sub(r"\S*/(law\.safetensors)", r"\1", line.strip()) for line in finding.note.splitlines()]
    return "\n".join(lines).replace(shown(one.subject.made), "optimizer")


def note(who: str, law: str) -> str:
    """What is known of it."""
    return next((text.strip() for laws, where, text in NOTES if law in laws.split() and re.search(where, who)), "")


def refused(every: list[tuple[str, Audited]]) -> Iterator[str]:
    """Shapes and dtypes that laws were tried without."""
    yield from ("Two plain updates along ones raise on these; the laws were tried without them.", "")
    yield from (f"- {lib} `{one.name}`, {what}: {error}" for lib, one in every for what, error in one.refused.items())


def left_out(every: list[tuple[str, Audited]]) -> Iterator[str]:
    """Laws that something is excused from and laws that do not apply, with the reason and who that is."""
    groups: dict[tuple[str, str], list[str]] = {}
    for library, one in every:
        for law, key in one.subject.excused.items():
            groups.setdefault((f"{law}, excused: {FALSE_ALARMS[key]}", library), []).append(one.name)
        for finding in one.findings[MAIN]:
            if finding.verdict == "does not apply":
                groups.setdefault((f"{finding.law} does not apply: {finding.note}", library), []).append(one.name)
    sizes = Counter(library for library, _ in every)
    for (why, library), names in sorted(groups.items()):
        whose = "all" if len(names) == sizes[library] else ", ".join(f"`{name}`" for name in names)
        yield f"- {why}: {library} {whose}"


class TorchRandom:
    """torch's generator, which Hypothesis then seeds before each case: what draws from it breaks the same way twice."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


GENERATOR = TorchRandom()  # Hypothesis holds it weakly


def work(library: str, place: int, examples: int | None) -> Audited:
    """One optimizer, in a process of its own."""
    warnings.simplefilter("ignore")  # of the peers
    hypothesis.register_random(GENERATOR)
    subject = LIBRARIES[library]()[place]
    print(library, short(subject.made), file=sys.stderr, flush=True)
    return examine(subject, examples)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, help="cases of each law (default: 50)")
    parser.add_argument("--out", type=Path, help="a file for the page")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        futures = {
            library: [pool.submit(work, library, place, arguments.examples) for place in range(len(subjects()))]
            for library, subjects in LIBRARIES.items()
            if version(library)
        }
        audited = {library: [future.result() for future in several] for library, several in futures.items()}
    text = page(audited, arguments.examples)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
