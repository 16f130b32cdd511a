"""One Hypothesis profile for the whole suite: no deadline, and the same cases on every run."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.load_profile("suite")


@pytest.fixture
def one_thread():
    """Threads that wait for each other over small tensors cost more than they give, on a busy machine a hundredfold."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
