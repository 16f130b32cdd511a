"""CheckpointManager: what it refuses, and what it never does while nothing is wrong."""

import warnings

import pytest
import torch
from manager_cases import LIKE, Failing, at, positions

from fnopt import CheckpointManager
from fnopt.errors import (
    CheckpointReadError,
    HyperparameterError,
    UsageError,
)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    """What the system says is a CheckpointReadError, and nothing was removed."""
    disk = Failing()
    with CheckpointManager(tmp_path, keep=1, fs=disk.fs) as manager:
        manager.save(at(1))
        disk.on.add("names")
        for use in (manager.latest, lambda: manager.save(at(2))):
            with pytest.raises(CheckpointReadError, match="cannot list"):
                use()
    assert positions(tmp_path) == [1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"keep": 0}, "keep must be an int >= 1, got 0"),
        ({"keep": True}, "keep must be an int >= 1, got True"),
        ({"keep": 2.0}, "keep must be an int >= 1, got 2.0"),
        ({"mode": "low"}, 'mode must be "min" or "max", got \'low\''),
        ({"asynchronous": 1}, "asynchronous must be a bool, got 1"),
    ],
)
def test_arguments_are_checked(arguments, text, tmp_path):
    """What is out of range is refused before anything is made."""
    with pytest.raises(HyperparameterError, match=text):
        CheckpointManager(tmp_path / "run", **arguments)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_saved_is_refused_and_changes_nothing(tmp_path):
    """A metric that is no number, a negative position and no state at all make no file, and remove none."""
    with CheckpointManager(tmp_path, keep=1) as manager:
        manager.save(at(1))
        for state, metric, text in (
            (at(2), "low", "metric is a str, expected a number or None"),
            (at(2), True, "metric is a bool"),
            (at(2), torch.zeros(2), "metric is a Tensor"),
            (at(-1), None, "position is -1, expected an int >= 0"),
            ({"w": torch.zeros(1)}, None, "CheckpointManager.save: expected a TrainState, got dict"),
        ):
            with pytest.raises(UsageError, match=text):
                manager.save(state, metric=metric)
        assert positions(tmp_path) == [1]
    with pytest.raises(UsageError, match="was closed, expected an open one"):
        manager.save(at(2))
    with pytest.raises(UsageError, match="was closed"):
        manager.__enter__()


def test_what_is_remembered_of_files_does_not_grow(tmp_path):
    """200 saves leave no more in memory than the files that are there."""
    with CheckpointManager(tmp_path, keep=2) as manager:
        for position in range(200):
            manager.save(at(position))
        assert len(manager._shelf._known) <= 3
        assert len(manager._shelf._verdicts) <= 3


def test_nothing_warns_where_nothing_is_wrong(tmp_path):
    """Saves, a restart and a restore of good files say nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for start in (0, 10):
            with CheckpointManager(tmp_path) as manager:
                for position in range(start, start + 5):
                    manager.save(at(position), metric=1.0)
                manager.restore(LIKE)
