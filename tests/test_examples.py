"""Everything that the docs show runs: docstrings, README and the pages in docs/."""

import doctest
import importlib
import io
import pkgutil
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import fnopt
from fnopt.laws import LAWS

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page run in a folder of their own; a text block after one is what it prints."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for example in Sybil(parsers=[PythonCodeBlockParser(), SkipParser()], encoding="utf-8").parse(page).examples():
        with redirect_stdout(io.StringIO()) as printed:
            example.evaluate()
        if shown := re.match(
            r"\s*(?:```\s*)?```text\n(.*?)```", example.document.text[example.region.end :], re.DOTALL
        ):
            same = doctest.OutputChecker().check_output(shown[1], printed.getvalue(), doctest.ELLIPSIS)
            assert same, f"{page.name} shows\n{shown[1]}\nand its code prints\n{printed.getvalue()}"


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
