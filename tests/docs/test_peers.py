"""The pages for those who come from other libraries: with these installed, no block is passed over."""

from pathlib import Path

import pages
import pytest

PEERS = {"coming_from_lightning": "lightning", "coming_from_optax": "optax", "coming_from_torchopt": "torchopt"}


@pytest.mark.slow
@pytest.mark.parametrize("page", PEERS)
def test_side_by_side_code_ends_at_the_same_place(page: str, tmp_path: Path) -> None:
    """Both columns run, and give the same numbers; needs the extra `bench`."""
    pages.run(pages.DOCS / "how_to" / f"{page}.md", tmp_path, whole=True)


def test_a_block_that_is_passed_over_is_an_error_if_all_shall_run(tmp_path: Path) -> None:
    """The control: a missing library is no reason to pass, where the whole page is asked for."""
    page = tmp_path / "page.md"
    page.write_text("<!-- skip: next if(True, reason='no optax') -->\n```python\n1 / 0\n```\n")
    assert pages.run(page, tmp_path) == {}
    with pytest.raises(pages.PageError, match="was not run: no optax"):
        pages.run(page, tmp_path, whole=True)
