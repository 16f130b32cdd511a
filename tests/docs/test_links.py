"""Links and anchors of the pages lead somewhere, their formulas can be shown, and the site lists each of them."""

from pathlib import Path

import mathml
import pages
import pytest


def test_links_and_anchors_exist() -> None:
    """Every relative link of README and the pages leads to a file of the repository, and its anchor to a heading."""
    assert not [broken for page in pages.all_pages() for broken in pages.broken_links(page)]


def test_the_site_lists_every_page_once() -> None:
    """The nav of mkdocs.yml and the pages in docs/ are the same."""
    here = [page.relative_to(pages.DOCS).as_posix() for page in pages.DOCS.rglob("*.md")]
    assert sorted(pages.in_nav()) == sorted(here)


def test_formulas_can_be_shown() -> None:
    """Every formula of every page has a MathML, and there are many."""
    found = [formula for page in pages.all_pages() for formula in mathml.formulas(page.read_text())]
    for tex, display in found:
        assert mathml.formula(tex, display).get("display") == display
    assert len(found) > 50


@pytest.mark.parametrize("tex", [r"\left( x", r"\nosuch x", "a & b"])
def test_wrong_formula_is_found(tex: str) -> None:
    """A formula that does not parse, or holds what is not known, is an error that shows it."""
    with pytest.raises(ValueError, match="no formula"):
        mathml.formula(tex, "block")


def test_what_is_a_formula() -> None:
    """Dollars in code, behind a backslash or before a space are none."""
    text = "a $x$, $y_1$ and `$no$`, 5 $ or \\$6 $\n\n$$\nz\n$$\n```text\n$no$\n```\n"
    assert mathml.formulas(text) == [("z\n", "block"), ("x", "inline"), ("y_1", "inline")]


@pytest.mark.parametrize(
    ("link", "broken"),
    [
        ("[a](there.md)", False),
        ("[a](there.md#a-heading)", False),
        ("[a](there.md#fnopt.AdamW)", False),
        ("[a](https://example.org/x#y)", False),
        ("`[a](gone.md)`", False),
        ("[a](gone.md)", True),
        ("![a](figures/gone.svg)", True),
        ("[a](there.md#another-heading)", True),
        ("[a](#gone)", True),
        ("[a](../../../etc/hostname)", True),
    ],
)
def test_broken_links_are_found(link: str, broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to a file or heading that is not there, or out of the repository, is reported; code is not read."""
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    (tmp_path / "there.md").write_text("# A `heading`\n\n```python\n# another heading\n```\n::: fnopt.AdamW\n")
    (tmp_path / "here.md").write_text(f"{link}\n")
    assert bool(pages.broken_links(tmp_path / "here.md")) == broken
