"""The site as it is built: strictly, every link followed, nothing fetched from elsewhere."""

import html
import inspect
import re
import subprocess
import sys
from pathlib import Path

import check_site
import pages
import pytest


@pytest.mark.slow
def test_the_site_builds_and_holds_together(tmp_path: Path) -> None:
    """`python docs/build.py` ends well: formulas, sources from their files, a docstring for each name."""
    done = subprocess.run(
        [sys.executable, pages.DOCS / "build.py", "--no-run", "--out", tmp_path / "site"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in pages.in_nav():
        assert (tmp_path / "site" / page).with_suffix(".html").is_file()
    adamw = (tmp_path / "site" / "learn" / "02_adamw.html").read_text()
    assert "<math" in adamw
    assert "fnopt/rules/adamw.py" in adamw
    assert "addcdiv" in adamw
    assert "fnopt.AdamW" in (tmp_path / "site" / "search.js").read_text()
    for page in (pages.DOCS / "reference").glob("*.md"):
        shown = words((tmp_path / "site" / "reference" / page.name).with_suffix(".html").read_text())
        for name in pages.SOURCE.findall(page.read_text()):
            assert f'id="{name}"' in (tmp_path / "site" / "reference" / page.name).with_suffix(".html").read_text()
            assert words(inspect.getdoc(pages.named(name)).split("\n\n")[0]) in shown, name


def words(text: str) -> str:
    """The letters and digits of a text or a page, without tags: what is left when it has been rendered."""
    return re.sub(r"[^A-Za-z0-9]+", " ", html.unescape(re.sub(r"<[^>]*>", "", text)))


def write(site: Path, name: str, body: str) -> None:
    (site / name).parent.mkdir(parents=True, exist_ok=True)
    (site / name).write_text(body)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ('<a href="b/c.html#here">', ""),
        ('<a href="b/">', ""),
        ('<a href="https://example.org/x">', ""),
        ('<a href="gone.html">', "does not exist"),
        ('<a href="b/c.html#gone">', "has no such anchor"),
        ('<a href="#gone">', "has no such anchor"),
        ('<img src="gone.svg">', "does not exist"),
        ('<script src="https://example.org/x.js">', "fetches"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "fetches"),
    ],
)
def test_what_is_wrong_in_a_built_page_is_found(body: str, complaint: str, tmp_path: Path) -> None:
    """A dead link, a dead anchor and a file from the network are reported, and a good link is not."""
    write(tmp_path, "a.html", body)
    write(tmp_path, "b/c.html", '<h1 id="here">')
    write(tmp_path, "b/index.html", "")
    problems = check_site.problems(tmp_path)
    assert len(problems) == bool(complaint)
    assert complaint in "".join(problems)
