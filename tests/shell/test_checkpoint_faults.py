"""Writing a checkpoint: whatever fails, and whenever, the path is the old file or the new one, whole."""

import ast
import errno
import inspect
import os
import resource
import textwrap
from pathlib import Path

import pytest
from checkpoint_cases import fingerprint, left_in, small_state

from fnopt.checkpoint import file as checkpoint
from fnopt.checkpoint import fs as fs_module
from fnopt.checkpoint import load_checkpoint, save_checkpoint
from fnopt.checkpoint.fs import Fs
from fnopt.errors import CheckpointWriteError

CALLS = ("create", "write", "seek", "fsync", "close", "replace", "fsync_folder", "unlink")


class FakeFs(Fs):
    """The real disk, which records its calls and lets the Nth one fail, before or after it took effect."""

    def __init__(self, at=0, fault=None, after=False):
        self.calls, self.at, self.fault, self.after, self.replaced = [], at, fault, after, False


def _faked(name):
    def call(self, *args):
        self.calls.append((name, args))
        hit = len(self.calls) == self.at
        if hit and self.fault == "short" and name == "write":
            return getattr(Fs, name)(self, args[0], args[1][: max(1, len(args[1]) // 2)])
        raises = hit and self.fault != "short"
        # a descriptor is gone even if closing it fails
        result = None if raises and not self.after and name != "close" else getattr(Fs, name)(self, *args)
        self.replaced |= name == "replace" and (not raises or self.after)
        if raises:
            raise self.fault
        return result

    return call


for _name in CALLS:
    setattr(FakeFs, _name, _faked(_name))

FAULTS = {
    "ENOSPC": OSError(errno.ENOSPC, "No space left on device"),
    "EIO": OSError(errno.EIO, "Input/output error"),
    "EACCES": PermissionError(errno.EACCES, "Permission denied"),
    "EINTR": InterruptedError(errno.EINTR, "Interrupted system call"),
    "short": "short",
    "Ctrl-C": KeyboardInterrupt(),
    "MemoryError": MemoryError(),
}


def sweep(folder, fault, after):
    """Save over an old file with every call in turn failing; what went wrong with the promise, and the cases run."""
    path, wrong, cases = folder / "step.safetensors", [], 0
    old, new = fingerprint(small_state(1)), fingerprint(small_state(2))
    while True:
        path.unlink(missing_ok=True)
        save_checkpoint(path, small_state(1))
        fs = FakeFs(cases + 1, fault, after)
        error = None
        try:
            save_checkpoint(path, small_state(2), fs=fs)
        except BaseException as caught:
            error = caught
        if len(fs.calls) < fs.at:
            return wrong, cases
        cases += 1
        case = f"call {fs.at}, {fs.calls[fs.at - 1][0]}"
        if fingerprint(load_checkpoint(path, like=small_state())) != (new if fs.replaced else old):
            wrong.append(f"{case}: neither the old file nor the new one")
        if list(left_in(folder)) != [path.name]:
            wrong.append(f"{case}: left {list(left_in(folder))}")
        if isinstance(fault, OSError):
            if type(error) is not CheckpointWriteError or error.errno != fault.errno or error.path != str(path):
                wrong.append(f"{case}: raised {error!r}")
        elif error is not (None if fault == "short" else fault):
            wrong.append(f"{case}: raised {error!r}")
        for left in folder.iterdir():
            left.unlink()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_any_call_leaves_the_old_file_or_the_new(fault, after, tmp_path):
    """Each call fails once: the path is whole, nothing is left beside it, and the error keeps the errno."""
    wrong, cases = sweep(tmp_path, FAULTS[fault], after)
    print(f"{fault}: {cases} calls failed in turn, {len(wrong)} wrong")
    assert cases > 10
    assert wrong == []


def order_of(folder):
    """What is missing in the trace of one save, of what durability needs."""
    path = folder / "step.safetensors"
    fs = FakeFs()
    save_checkpoint(path, small_state(), fs=fs)
    names = [name for name, _ in fs.calls]
    last = {name: max((i for i, n in enumerate(names) if n == name), default=-1) for name in CALLS}
    first = {name: names.index(name) if name in names else len(names) for name in CALLS}
    needs = {
        "the first call makes the file": names[0] == "create" == names[first["create"]],
        "in the same folder": fs.calls[0][1][0].parent == folder and str(os.getpid()) in fs.calls[0][1][0].name,
        "all is written before fsync": last["write"] < first["fsync"],
        "the file is synced before it is named": -1 < last["fsync"] < first["replace"],
        "to its place": fs.calls[first["replace"]][1] == (fs.calls[0][1][0], path),
        "and then the folder is synced": first["replace"] < last["fsync_folder"] == len(names) - 1,
    }
    return [need for need, met in needs.items() if not met]


def test_a_save_is_synced_before_and_after_it_is_named(tmp_path):
    """fsync of the file, replace, fsync of the folder: a name never stands for bytes that are not there."""
    assert order_of(tmp_path) == []


def without(line):
    """write_atomically, less one line."""
    source = inspect.getsource(fs_module.write_atomically)
    assert source.count(line) == 1
    scope = dict(vars(fs_module))
    exec(textwrap.dedent(source.replace(line, "pass")), scope)
    return scope["write_atomically"]


@pytest.mark.parametrize("line", ["fs.fsync(fd)", "fs.fsync_folder(target.parent)"])
def test_the_trace_shows_a_sync_that_is_left_out(line, tmp_path, monkeypatch):
    """Negative control: without one of the two syncs the order is not complete."""
    monkeypatch.setattr(checkpoint, "write_atomically", without(line))
    assert order_of(tmp_path)


def test_the_sweep_shows_a_cleanup_that_is_left_out(tmp_path, monkeypatch):
    """Negative control: without removing the temporary file, faults leave it behind."""
    monkeypatch.setattr(checkpoint, "write_atomically", without("_remove(fs, temporary)"))
    assert any("left" in text for text in sweep(tmp_path, FAULTS["EIO"], False)[0])


def test_the_sweep_shows_a_write_in_place(tmp_path, monkeypatch):
    """Negative control: a writer that opens the path itself destroys the old file."""
    source = inspect.getsource(fs_module.write_atomically).replace(
        "fs.create(temporary)", "os.open(target, os.O_WRONLY)"
    )
    scope = dict(vars(fs_module))
    exec(source.replace("fs.replace(temporary, target)", "pass"), scope)
    monkeypatch.setattr(checkpoint, "write_atomically", scope["write_atomically"])
    from fnopt.errors import CheckpointError

    with pytest.raises(CheckpointError):
        sweep(tmp_path, FAULTS["EIO"], False)


def test_no_space_says_what_is_needed_and_left(tmp_path):
    """ENOSPC names the bytes that the file needs and those that the disk has."""
    fs = FakeFs(2, FAULTS["ENOSPC"])
    fs.free = lambda folder: 300
    with pytest.raises(CheckpointWriteError, match=r"needs \d\.\d kB, has 300 B.*nothing was changed"):
        save_checkpoint(tmp_path / "a", small_state(), fs=fs)


def test_a_folder_that_cannot_be_synced_is_an_error_that_says_what_stands(tmp_path):
    """After the rename the new file stands, and the error does not claim otherwise."""
    fs = FakeFs()
    save_checkpoint(tmp_path / "a", small_state(), fs=fs)
    with pytest.raises(CheckpointWriteError, match="new file is in place and whole, but a power failure"):
        save_checkpoint(tmp_path / "a", small_state(2), fs=FakeFs(len(fs.calls), FAULTS["EIO"]))


def test_the_limit_of_the_system_is_an_error_and_no_torn_file(tmp_path):
    """A real write that the kernel cuts off (a file-size limit) leaves the old file; only then is it an error."""
    path = save_checkpoint(tmp_path / "a", small_state(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CheckpointWriteError) as caught:
            save_checkpoint(path, small_state(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert list(left_in(tmp_path)) == ["a"]
    assert load_checkpoint(path, like=small_state()).position == small_state(1).position


def test_a_target_that_is_no_file_is_refused_with_the_fix(tmp_path):
    """A folder, a pipe, a device, a missing folder: each is refused before anything is written, and stays."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = set(left_in(tmp_path))
    for name, number, text in (
        ("folder", errno.EISDIR, "is a directory; name a file in it: folder/step.safetensors"),
        ("pipe", errno.EINVAL, "device, pipe or socket; name a regular file"),
        ("/dev/null", errno.EINVAL, "device, pipe or socket"),
        ("none/a", errno.ENOENT, r"not an existing folder; make it first: Path\(.*mkdir\(parents=True\)"),
        ("loop", errno.ELOOP, "symbolic links"),
    ):
        with pytest.raises(CheckpointWriteError, match=text) as caught:
            save_checkpoint(tmp_path / name, small_state())
        assert caught.value.errno == number
    assert set(left_in(tmp_path)) == before


def test_all_that_changes_the_disk_is_in_fs():
    """No module of checkpoints but fs.py calls os, shutil or open to write: a fault injected there is every fault."""
    sources = [path for path in Path(fs_module.__file__).parent.glob("*.py") if path.name != "fs.py"]
    assert len(sources) > 10
    reads = {"os.stat", "os.fstat", "os.fspath", "os.getpid", "os.kill", "os.readlink"}
    for source in sources:
        tree = ast.parse(source.read_text())
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert {call for call in calls if call.split(".")[0] in ("os", "shutil", "open")} <= reads
        of_paths = {call.rpartition(".")[2]: call for call in calls if not call.startswith(("fs.", "self.fs."))}
        assert not {"unlink", "mkdir", "rmdir", "rename", "touch", "write_text", "write_bytes"} & of_paths.keys()
