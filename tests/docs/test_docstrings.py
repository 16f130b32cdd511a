"""What docstrings show runs, and public names have one."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest
import torch

import fnopt
from fnopt.laws import LAWS

ROOT = Path(__file__).parents[2]


def _docstrings() -> list[doctest.DocTest]:
    names = [fnopt.__name__, *(found.name for found in pkgutil.walk_packages(fnopt.__path__, "fnopt."))]
    scope = {"torch": torch, "nn": torch.nn, "fnopt": fnopt}
    found: list[doctest.DocTest] = []
    for name in names:
        module = importlib.import_module(name)
        found += doctest.DocTestFinder().find(module, name, extraglobs=scope)
    return [test for test in found if test.examples]


@pytest.mark.parametrize("example", _docstrings(), ids=lambda test: test.name)
def test_docstring_example_prints_what_it_shows(example: doctest.DocTest) -> None:
    """The example in a docstring gives the output that stands under it."""
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    torch.manual_seed(0)
    failed, tried = runner.run(example, out=report.append)
    assert tried
    assert not failed, "".join(report)


def test_the_page_of_laws_lists_them_all() -> None:
    """Every law is in docs/laws.md with its sentence, in the order of the table."""
    rows = [f"| `{law.name}` | {', '.join(law.kinds)} | {_cell(law.sentence)} |" for law in LAWS.values()]
    assert "\n".join(rows) in (ROOT / "docs" / "laws.md").read_text()


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def test_every_public_name_is_exported_once_and_documented() -> None:
    """A public name is listed in `__all__`-like exports of the package and says what it is."""
    public = {name: value for name, value in vars(fnopt).items() if name in fnopt.__all__}
    assert set(public) == set(fnopt.__all__)
    assert len(set(fnopt.__all__)) == len(fnopt.__all__)
    silent = [name for name, value in public.items() if not (getattr(value, "__doc__", None) or "").strip()]
    assert not silent


def test_readme_begins_with_the_two_commands() -> None:
    """README's first two shell blocks install with torch pinned: one runs the main job, one the tests."""
    blocks = [part.split("```")[0] for part in (ROOT / "README.md").read_text().split("```sh\n")[1:3]]
    assert len(blocks) == 2
    assert all("torch==2.13.0" in block for block in blocks)
    assert "fnopt train" in blocks[0]
    assert "pytest" in blocks[1]
