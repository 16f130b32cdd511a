"""Fixtures of the tests of the `fnopt` command."""

import pytest
import torch
from cli_cases import TINY

from fnopt.cli import main


@pytest.fixture(autouse=True)
def _threads_given_back():
    """A run sets the number of threads; the other tests get theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def text(tmp_path):
    """A text of 40 training windows at the tiny context."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {i} of the text.\n" for i in range(18)))
    return path


@pytest.fixture
def train(tmp_path, text):
    """Begin a tiny run in a folder of that name; further flags win."""

    def begin(name, *flags):
        return main(["train", "--out", str(tmp_path / name), "--data", str(text), *TINY, *flags])

    return begin
