"""Fixtures of the tests of fnopt.optim."""

import pytest
from client_cases import forget_accelerator


@pytest.fixture
def no_accelerator():
    """The test begins and ends without an Accelerator in the process."""
    forget_accelerator()
    yield
    forget_accelerator()
