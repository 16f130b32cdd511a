"""The code of README and of the pages in docs/ runs, prints what they show, and draws the figures that lie there."""

from pathlib import Path

import figures
import pages
import pytest


def name(page: Path) -> str:
    return page.relative_to(pages.ROOT).as_posix()


@pytest.mark.parametrize("page", pages.all_pages(), ids=name)
def test_page_code_runs(page: Path, tmp_path: Path) -> None:
    """A page's Python blocks run in a folder of their own, print the text blocks after them, and draw its figures."""
    for path, drawn in pages.run(page, tmp_path).items():
        committed = page.parent / path
        assert committed.exists(), f"{path} is not there; draw it: python docs/build.py"
        assert not figures.differences(committed.read_text(), drawn.read_text()), f"draw {path}: python docs/build.py"


PAGE = """
```python
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
axes.plot([0, 1, 2], [0, 1, 0])
figure.savefig("figures/a.svg")
print(1)
```
```text
1
```
![a](figures/a.svg)
"""


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("text\n1", "text\n2", "its code prints\n1"),
        ("![a](figures/a.svg)", "", "draws \\['figures/a.svg'\\], which it does not show"),
        ("![a](figures/a.svg)", "![b](figures/b.svg)", "shows \\['figures/b.svg'\\], which its code does not draw"),
    ],
)
def test_wrong_page_is_found(before: str, after: str, complaint: str, tmp_path: Path) -> None:
    """A page that shows another output, a figure too many or one too few does not pass."""
    page, folder = tmp_path / "page.md", tmp_path / "run"
    folder.mkdir()
    page.write_text(PAGE.replace(before, after))
    with pytest.raises(pages.PageError, match=complaint):
        pages.run(page, folder)


def draw(folder: Path, values: str, title: str = "a") -> str:
    page = folder / "page.md"
    page.write_text(PAGE.replace("[0, 1, 0])", f"{values})\naxes.set_title({title!r})"))
    run = Path(folder, f"run{len(list(folder.iterdir()))}")
    run.mkdir()
    return pages.run(page, run)["figures/a.svg"].read_text()


def test_figures_are_compared_by_what_one_sees(tmp_path: Path) -> None:
    """A figure equals itself and one with the rounding of another CPU; another curve, text or colour is another."""
    old = draw(tmp_path, "[0, 1, 0]")
    assert old == draw(tmp_path, "[0, 1, 0]")
    assert not figures.differences(old, draw(tmp_path, "[0, 1 - 1e-5, 0]"))
    for values, title in [("[0, 0.9, 0.2]", "a"), ("[0, 1, 0], 'C1'", "a"), ("[0, 1, 0]", "b")]:
        assert figures.differences(old, draw(tmp_path, values, title))
    assert figures.differences(old, old.replace(">0.25<", ">0.26<"))
    assert ">0.0001<" in draw(tmp_path, "[0, 1, 0]", "0.0001")
