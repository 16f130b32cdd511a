"""Fixtures of the tests of the experiments."""

import pytest


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Tiny tensors need no other thread; a command sets their number, and the other tests get theirs back."""


@pytest.fixture
def text(tmp_path):
    """A text of 120 windows at the tiny context."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {i} of the text.\n" for i in range(54)))
    return path


@pytest.fixture
def without_matplotlib(monkeypatch):
    """An import of matplotlib fails."""
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
