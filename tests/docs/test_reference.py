"""The reference has every public name exactly once, and its overview leads to each."""

import re
from pathlib import Path
from types import ModuleType

import pages
import pytest

import fnopt
import fnopt.callbacks
import fnopt.errors
import fnopt.laws
import fnopt.optim

ROOMS = [fnopt, fnopt.optim, fnopt.laws, fnopt.callbacks, fnopt.errors]
EXPORT = re.compile(r"^(?:from (?:\.|torch)\S* import \w+ as|class) (\w+)", re.MULTILINE)


def exported(room: ModuleType) -> set[str]:
    """The public names of a room, without rooms and without the errors that fnopt itself exports."""
    names = set(EXPORT.findall(Path(str(room.__file__)).read_text()))
    if room is fnopt.errors:
        names -= set(fnopt.__all__)
    return {f"{room.__name__}.{name}" for name in names if not isinstance(getattr(room, name), ModuleType)}


def shown(folder: Path) -> list[str]:
    """The names that the pages of a folder document: from a docstring, or by hand, under an anchor."""
    entry = re.compile(r"^::: ([\w.]+)$|<a id=\"(fnopt[\w.]+)\"></a>", re.MULTILINE)
    texts = [page.read_text() for page in sorted(folder.glob("*.md"))]
    return [docstring or anchor for text in texts for docstring, anchor in entry.findall(text)]


def missing(folder: Path, rooms: list[ModuleType]) -> set[str]:
    """Public names without an entry."""
    return {name for room in rooms for name in exported(room)} - set(shown(folder))


def test_every_public_name_is_in_the_reference_once() -> None:
    """Each name of fnopt, optim, laws, callbacks and each error has one entry; no entry is of anything else."""
    found, names = shown(pages.DOCS / "reference"), {name for room in ROOMS for name in exported(room)}
    assert {f"fnopt.{name}" for name in fnopt.__all__} <= names | {"fnopt.optim", "fnopt.callbacks"}
    assert not missing(pages.DOCS / "reference", ROOMS)
    assert not sorted(name for name in found if found.count(name) > 1)
    assert not set(found) - names - {"fnopt.optim.lr_scheduler", "fnopt.optim.swa_utils"}


@pytest.mark.parametrize("name", ["AdamW", "Tensors", "evolve"])
def test_name_without_an_entry_is_found(name: str, tmp_path: Path) -> None:
    """A reference that lacks a name, be it from a docstring or by hand, does not pass."""
    for page in (pages.DOCS / "reference").glob("*.md"):
        text = re.sub(rf"^::: fnopt\.{name}$|<a id=\"fnopt\.{name}\"></a>", "", page.read_text(), flags=re.MULTILINE)
        (tmp_path / page.name).write_text(text)
    assert missing(tmp_path, ROOMS) == {f"fnopt.{name}"}


def test_overview_links_to_every_name_but_the_laws() -> None:
    """The first page of the reference has a link to each entry; the laws have a table of their own."""
    text = (pages.DOCS / "reference" / "index.md").read_text()
    names = [name for name in shown(pages.DOCS / "reference") if ".laws.law_" not in name]
    torchs = [name for name in names if f'{name}"></a>`' in (pages.DOCS / "reference" / "optim.md").read_text()]
    assert not [name for name in names if f"#{name})" not in text and name not in torchs]
