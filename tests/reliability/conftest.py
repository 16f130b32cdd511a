"""The harnesses here use the states and files of tests/shell; so does the script that prints docs/reliability.md."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "shell"))


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Tiny tensors and forks: threads would only wait for each other."""
