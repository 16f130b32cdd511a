"""CheckpointManager: what a restore falls back to, and what it never does."""

import pytest
import torch
from manager_cases import LIKE, at, damage

from fnopt import CheckpointManager, CheckpointWarning
from fnopt.errors import (
    CheckpointCorruptError,
    CheckpointNotFoundError,
    CheckpointVersionError,
    NonFiniteError,
    NoUsableCheckpointError,
    StateMismatchError,
)


def test_fallback_is_one_warning_that_names_each_file_and_why(tmp_path):
    """Broken newer files are passed over, with one warning for all of them."""
    manager = CheckpointManager(tmp_path, keep=5)
    paths = [manager.save(at(position), metric=1.0 / position) for position in (1, 2, 3, 4)]
    damage(paths[3])
    damage(paths[2], 200)
    for use in (lambda: manager.restore(LIKE).position, lambda: int(manager.latest().stem[5:])):
        with pytest.warns(CheckpointWarning, match=r"passed over .*; took step-0000000002") as caught:
            assert use() == 2
        (warning,) = caught
        assert all(f"{path} is damaged" in str(warning.message) for path in paths[2:])
        assert warning.filename == __file__
    with pytest.warns(CheckpointWarning, match=r"best: passed over.*took step-0000000002"):
        assert manager.best() == paths[1]
    manager.close()


def test_an_explicit_path_never_falls_back(tmp_path):
    """The file that was asked for is the one that is loaded, or an error."""
    with CheckpointManager(tmp_path) as manager:
        first, second = manager.save(at(1)), manager.save(at(2))
        damage(second)
        with pytest.raises(CheckpointCorruptError, match="step-0000000002"):
            manager.restore(LIKE, second)
        with pytest.raises(CheckpointNotFoundError):
            manager.restore(LIKE, tmp_path / "step-0000000009.safetensors")
        assert manager.restore(LIKE, first).position == 1


def test_where_all_are_broken_each_is_listed(tmp_path):
    """Nothing usable is an error with every reason, never a fresh start."""
    with CheckpointManager(tmp_path) as manager:
        paths = [manager.save(at(position), metric=1.0) for position in (1, 2)]
        damage(paths[0])
        paths[1].write_bytes(b"")
        for use in (manager.latest, manager.best, lambda: manager.restore(LIKE)):
            with pytest.raises(NoUsableCheckpointError, match=r"none of 2 checkpoints in .* can be used") as caught:
                use()
            assert len(caught.value.problems) == 2
            assert all(any(path.name in problem for problem in caught.value.problems) for path in paths)
            assert caught.value.path == str(tmp_path)


def test_where_there_is_nothing_that_is_said(tmp_path):
    """`latest` and `best` are None; `restore` is an error that says so."""
    with CheckpointManager(tmp_path) as manager:
        assert (manager.latest(), manager.best()) == (None, None)
        with pytest.raises(CheckpointNotFoundError, match="holds no checkpoint; begin a new run if"):
            manager.restore(LIKE)
        manager.save(at(1))
        assert manager.best() is None


def test_what_an_older_file_would_only_hide_is_no_reason_to_fall_back(tmp_path, monkeypatch):
    """Another model, a diverged run and a newer schema are errors, not damage."""
    with CheckpointManager(tmp_path) as manager:
        manager.save(at(1))
        manager.save(at(2, float("nan")))
        with pytest.raises(NonFiniteError):
            manager.restore(LIKE)
        assert manager.restore(LIKE, allow_nonfinite=True).position == 2
        with pytest.raises(StateMismatchError):
            manager.restore(at(0).__class__.of({"v": torch.zeros(4)}))
        monkeypatch.setattr("fnopt.checkpoint.document.is_known", lambda schema: False)
        with pytest.raises(CheckpointVersionError):
            manager.restore(LIKE)
