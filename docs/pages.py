"""The pages of this folder: which there are, what their code prints and draws, where their links lead.

The tests (tests/docs) and the build of the site (build.py) both use this.
"""

import doctest
import io
import re
from collections.abc import Iterator
from contextlib import chdir, nullcontext, redirect_stdout
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest import SkipTest

import figures
from fences import FENCED, prose
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

SHOWN = re.compile(r"\s*(?:```\s*)?```text\n(.*?)```", re.DOTALL)
FIGURE = re.compile(r"!\[[^\]]*\]\((figures/[\w.-]+\.svg)\)")
LINK = re.compile(r"(?<!\\)\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
SOURCE = re.compile(r"^::: ([\w.]+)[ \t]*$", re.MULTILINE)
NAV = re.compile(r"^\s*-\s+(?:[^#\n]*?:\s+)?([\w./-]+\.md)\s*$", re.MULTILINE)


class PageError(AssertionError):
    """A page that does not hold what it shows; says which, and what instead."""


def all_pages() -> list[Path]:
    """README and every page of this folder."""
    return sorted([ROOT / "README.md", *DOCS.rglob("*.md")])


def in_nav() -> list[str]:
    """The pages that mkdocs.yml lists, in its order, relative to this folder."""
    return NAV.findall((DOCS / "mkdocs.yml").read_text(encoding="utf-8"))


def run(page: Path, folder: Path, whole: bool = False) -> dict[str, Path]:
    """Run the Python blocks of a page in `folder`, hold its text blocks against what they print; its figures by path.

    Figures are drawn in the style of figures.mplstyle into `folder`/figures, and left as `figures.plain` makes them.
    A block that needs another library says so, and is passed over where that is missing; with `whole` it is an error.
    """
    import torch

    text = page.read_text(encoding="utf-8")
    torch.manual_seed(0)
    with chdir(folder), figures.drawing() if "matplotlib" in text else nullcontext():
        for example in Sybil(parsers=[PythonCodeBlockParser(), SkipParser()], encoding="utf-8").parse(page).examples():
            with redirect_stdout(io.StringIO()) as printed:
                try:
                    example.evaluate()
                except SkipTest as missing:
                    if whole:
                        raise PageError(f"{page.name}:{example.line} was not run: {missing}") from None
                    continue
            if (
                shown := SHOWN.match(example.document.text[example.region.end :])
            ) and not doctest.OutputChecker().check_output(shown[1], printed.getvalue(), doctest.ELLIPSIS):
                raise PageError(f"{page.name} shows\n{shown[1]}\nand its code prints\n{printed.getvalue()}")
    wanted, drawn = (
        set(FIGURE.findall(text)),
        {path.relative_to(folder).as_posix() for path in folder.glob("figures/*")},
    )
    if wanted != drawn:
        raise PageError(
            f"{page.name} shows {sorted(wanted - drawn)}, which its code does not draw, and draws "
            f"{sorted(drawn - wanted)}, which it does not show"
        )
    return {name: folder / name for name in sorted(drawn)}


def named(name: str) -> Any:
    """What a dotted name means: an attribute before a module of the same name, as in `fnopt.accumulate`."""
    room, _, last = name.rpartition(".")
    return getattr(resolve_name(room), last)


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Where the relative links and images of a page lead: (path, anchor)."""
    for target in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


def slug(heading: str, separator: str = "-") -> str:
    """The anchor of a heading, as GitHub makes it; the site makes the same."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"<[^>]+>", "", heading).strip().lower()).replace(" ", separator)


def anchors(page: Path) -> set[str]:
    """The anchors of a page: its headings, and in the reference its names."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*\s*$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "") for heading in headings]
    return {*map(slug, plain), *re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text), *SOURCE.findall(text)}


def broken_links(page: Path) -> list[str]:
    """The links of a page that lead nowhere, each with the reason."""
    found: list[str] = []
    for path, anchor in links(page):
        if not path.exists() or not path.is_relative_to(ROOT):
            found.append(f"{page.relative_to(ROOT)}: {path} does not exist")
        elif anchor and path.suffix == ".md" and anchor not in anchors(path):
            found.append(f"{page.relative_to(ROOT)}: {path.name} has no #{anchor}, only {sorted(anchors(path))}")
    return found
