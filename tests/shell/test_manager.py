"""CheckpointManager: which files stay, which one is the latest and the best, and what a restore falls back to."""

from collections import Counter
from tempfile import TemporaryDirectory

import pytest
import torch
from checkpoint_cases import fingerprint
from hypothesis import given, settings
from hypothesis import strategies as st
from manager_cases import LIKE, Failing, Watched, at, damage, positions

from fnopt import CheckpointManager, CheckpointWarning, read_info, save_checkpoint
from fnopt.checkpoint.shelf import Shelf

metrics = st.none() | st.sampled_from([float("nan"), float("inf")]) | st.floats(-1e3, 1e3) | st.sampled_from([0.0, 1.0])


def expected(saved, keep, mode):
    """The positions that must be there after these saves (position, metric), by the definition."""
    latest = {position: (serial, metric) for serial, (position, metric) in enumerate(saved)}
    order = sorted(latest, key=lambda position: -latest[position][0])
    ranked = [(m, serial, p) for p, (serial, m) in latest.items() if m is not None and abs(m) < float("inf")]
    best = min(ranked, key=lambda item: (item[0] if mode == "min" else -item[0], item[1]), default=(0, 0, None))[2]
    return order[0], best, sorted({*order[:keep], *([] if best is None else [best])})


@settings(max_examples=60)
@given(
    values=st.lists(metrics, min_size=1, max_size=8),
    steps=st.lists(st.integers(1, 3), min_size=8, max_size=8),
    keep=st.integers(1, 4),
    mode=st.sampled_from(["min", "max"]),
    reopen=st.booleans(),
)
def test_the_last_and_the_best_stay(values, steps, keep, mode, reopen):
    """After each save there are exactly the last `keep` files and the best one, also over restarts; all verify."""
    saved, position = [], 0
    with TemporaryDirectory() as folder:
        manager = CheckpointManager(folder, keep=keep, mode=mode)
        for value, step in zip(values, steps, strict=False):
            position += step
            path = manager.save(at(position), metric=value)
            saved.append((position, value))
            latest, best, stay = expected(_pruned(saved, keep, mode), keep, mode)
            assert positions(folder) == stay
            assert manager.latest() == path
            assert manager.restore(LIKE).position == latest
            found = manager.best()
            assert (None if found is None else int(found.stem[5:])) == best
            if reopen:
                manager.close()
                manager = CheckpointManager(folder, keep=keep, mode=mode)
        manager.close()


def _pruned(saved, keep, mode):
    """What of these saves is still known: a file that went is no candidate for the best any more."""
    known = []
    for item in saved:
        known.append(item)
        stay = set(expected(known, keep, mode)[2])
        known = [old for old in known if old[0] in stay]
    return known


def fewest(folder, keep):
    """How many good files were missing at the worst moment of a run of saves: below min(keep, made)."""
    made, worst, seen = 0, 0, Counter()

    def look(call, args):
        nonlocal worst
        seen[call] += 1
        if call in ("replace", "unlink", "fsync_folder"):
            worst = max(worst, min(keep, made) - len(positions(folder)))

    with CheckpointManager(folder, keep=keep, fs=Watched(look)) as manager:
        for position in range(1, 8):
            manager.save(at(position), metric=float(position))
            made += 1
            worst = max(worst, min(keep, made) - len(positions(folder)))
    assert seen["unlink"] > 3
    return worst


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_there_are_never_fewer_good_files_than_promised(keep, tmp_path):
    """At every call that changes the folder there are at least min(keep, made) good files, keep=1 included."""
    assert fewest(tmp_path, keep) == 0


def test_a_deletion_before_the_write_is_seen(tmp_path, monkeypatch):
    """Negative control: a manager that makes room first turns the law above red."""
    put = Shelf.put

    def eager(self, path, encoded, keep, mode):
        for old in self.newest_first()[keep - 1 :]:
            self.fs.unlink(old.path)
        put(self, path, encoded, keep, mode)

    monkeypatch.setattr(Shelf, "put", eager)
    assert fewest(tmp_path, 1) > 0


def test_nothing_is_deleted_before_the_new_file_is_durable(tmp_path):
    """The removal of the old file comes after the folder of the new one was synced."""
    calls = []
    with CheckpointManager(tmp_path, keep=1, fs=Watched(lambda call, args: calls.append((call, args)))) as manager:
        manager.save(at(1))
        calls.clear()
        manager.save(at(2))
        names = [call for call, args in calls if call != "unlink" or args[0].name.startswith("step-")]
    assert names.index("fsync") < names.index("replace") < names.index("fsync_folder") < names.index("unlink")


def test_files_and_nothing_else(tmp_path):
    """A folder holds the files, no pointer; after `close`, no lock either. Missing folders are made."""
    with CheckpointManager(tmp_path / "a" / "b") as manager:
        path = manager.save(at(12), metric=torch.tensor(0.25), info={"lr": 0.1})
        assert path.name == "step-0000000012.safetensors"
        assert len(list(path.parent.iterdir())) == 2
    assert list((tmp_path / "a" / "b").iterdir()) == [path]
    assert read_info(path)["info"] == {"lr": 0.1}
    assert fingerprint(manager.restore(LIKE)) == fingerprint(at(12))


def test_a_run_that_went_back_goes_on_from_there(tmp_path):
    """What is saved last is the latest, and stays, also where its position is lower than that of older files."""
    with CheckpointManager(tmp_path, keep=2) as manager:
        for position in (10, 20, 30):
            manager.save(at(position))
        state = manager.restore(LIKE, manager.folder / "step-0000000020.safetensors")
        manager.save(at(state.position + 1))
    assert positions(tmp_path) == [21, 30]
    with CheckpointManager(tmp_path, keep=2) as manager:
        assert manager.restore(LIKE).position == 21
        manager.save(at(22))
    assert positions(tmp_path) == [21, 22]


def test_a_second_save_of_the_same_state_keeps_its_metric(tmp_path):
    """Saving at the end what was just validated and saved does not forget that it was the best."""
    with CheckpointManager(tmp_path, keep=1) as manager:
        best = manager.save(at(1), metric=0.5)
        manager.save(at(2), metric=0.9)
        assert manager.best() == best
        again = manager.save(at(3), metric=0.1)
        manager.save(at(3))
        assert manager.best() == again
        assert positions(tmp_path) == [3]


def test_broken_files_do_not_count_and_do_not_go(tmp_path):
    """Retention counts good files only, and leaves damaged and foreign ones to be looked at."""
    foreign = tmp_path / "step-0000000000.safetensors"
    foreign.write_text("mine")
    with CheckpointManager(tmp_path, keep=2) as manager:
        first, second = manager.save(at(1)), manager.save(at(2))
        damage(second)
        manager.save(at(3))
        assert first.exists()
        manager.save(at(4))
    assert positions(tmp_path) == [3, 4]
    assert second.exists()
    assert foreign.read_text() == "mine"


def test_damage_before_the_start_does_not_count_either(tmp_path):
    """A file that broke between two runs is verified before older ones are removed because of it."""
    with CheckpointManager(tmp_path, keep=2) as manager:
        paths = [manager.save(at(position)) for position in (1, 2)]
    damage(paths[1])
    with CheckpointManager(tmp_path, keep=2) as manager:
        manager.save(at(3))
        assert positions(tmp_path) == [1, 3]


def test_retention_that_believes_names_is_seen(tmp_path, monkeypatch):
    """Negative control: if every file passes for good, the good one goes and the damaged one stays."""
    monkeypatch.setattr(Shelf, "is_good", lambda self, file: True)
    with pytest.raises(AssertionError):
        test_damage_before_the_start_does_not_count_either(tmp_path)


def test_files_of_save_checkpoint_are_the_oldest(tmp_path):
    """A file of that name that `save_checkpoint` wrote is one of the run, saved before all others."""
    save_checkpoint(tmp_path / "step-0000000005.safetensors", at(5))
    with CheckpointManager(tmp_path, keep=1) as manager:
        assert manager.restore(LIKE).position == 5
        manager.save(at(1))
    assert positions(tmp_path) == [1]


def test_an_old_file_that_cannot_be_removed_is_a_warning(tmp_path):
    """The new file is saved; what could not be removed is named."""
    disk = Failing()
    with CheckpointManager(tmp_path, keep=1, fs=disk.fs) as manager:
        old = manager.save(at(1))
        disk.on.add("unlink")
        with pytest.warns(CheckpointWarning, match=f"cannot remove {old}, which is superseded"):
            manager.save(at(2))
        disk.on.clear()
        assert positions(tmp_path) == [1, 2]
        manager.save(at(3))
    assert positions(tmp_path) == [3]
