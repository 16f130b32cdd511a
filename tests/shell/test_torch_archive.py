"""Torch files that are hostile or damaged: refused before anything in them runs, is inflated or is touched."""

import io
import pickle
import random
import re
import struct
import tracemalloc
import zipfile
from collections import Counter, OrderedDict

import pytest
import torch
from archive_cases import LIKE, OPTIMIZER, Payload, pickled, refused, rezipped, with_pickle
from checkpoint_cases import fingerprint
from torch_file_cases import net, trained

import fnopt
from fnopt import export_torch, load_checkpoint
from fnopt.checkpoint import torch_archive, torch_import
from fnopt.errors import (
    CheckpointCorruptError,
    CheckpointError,
    NotACheckpointError,
    UnsafeCheckpointError,
)


@pytest.fixture
def good(tmp_path):
    """The bytes of a good torch file."""
    return export_torch(tmp_path / "good.pt", trained(OPTIMIZER, net()), optimizer=OPTIMIZER).read_bytes()


def test_an_archive_that_was_written_again_is_good(good, tmp_path):
    """What the tests below change is the reason why they are refused: unchanged, the file loads."""
    path = tmp_path / "a.pt"
    path.write_bytes(rezipped(good))
    assert fingerprint(load_checkpoint(path, like=LIKE)) == fingerprint(
        load_checkpoint(tmp_path / "good.pt", like=LIKE)
    )


def test_no_payload_runs(good, tmp_path):
    """A pickle that names a function is refused by that name, whatever it is, and nothing has run."""
    marker = tmp_path / "marker"
    payloads = {
        "builtins.exec": Payload(exec, f"open({str(marker)!r}, 'w')"),
        "posix.mkdir": Payload(__import__("os").mkdir, str(marker)),
        "builtins.getattr": Payload(getattr, 1, "real"),
        "builtins.bytearray": Payload(bytearray, 1 << 40),
        "collections.Counter": Counter("a"),
        "torch.FloatTensor": Payload(torch.FloatTensor, 1 << 40),
        "torch._utils._rebuild_sparse_tensor": Payload(torch._utils._rebuild_sparse_tensor, 1, 2),
    }
    for name, payload in payloads.items():
        content = pickled({"model": {}, "optimizer": payload, "step": 1}).replace(b"__builtin__", b"builtins")
        text = f"a pickle that calls for '{re.escape(name)}'"
        refused(tmp_path / "a.pt", with_pickle(good, content), UnsafeCheckpointError, text)
    modern = with_pickle(good, pickle.dumps({"model": Payload(exec, "1")}, protocol=4))
    refused(tmp_path / "a.pt", modern, UnsafeCheckpointError, "STACK_GLOBAL")
    assert not marker.exists()


def test_a_pickle_that_the_names_let_pass_is_still_loaded_without_code(good, tmp_path):
    """What only torch itself can see to be wrong is refused by torch, and is no crash."""
    for text in (b"ccollections\nOrderedDict\n(K\x01K\x02tR.", b"K\x01K\x02a.", b"(lK\x01b.", b"h\x07.", b"K\x01."):
        (tmp_path / "a.pt").write_bytes(with_pickle(good, text))
        assert issubclass(load_error(tmp_path / "a.pt"), CheckpointError), text


def load_error(path):
    """The type of the error of a load; None if there is none."""
    try:
        load_checkpoint(path, like=LIKE)
    except Exception as error:
        return type(error)
    return None


def test_a_compressed_archive_is_refused_before_it_is_inflated(tmp_path):
    """256 MB of zeros in 260 kB: refused, within a few MB."""
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickled({"model": {}}))
        archive.writestr("a/data/0", bytes(256 << 20))
    tracemalloc.start()
    refused(tmp_path / "a.pt", bomb.getvalue(), UnsafeCheckpointError, "compressed entry 'a/data.pkl'")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


def test_entries_that_overlap_are_refused(good, tmp_path):
    """Entries that share bytes, or lie about sizes, add up to more than the file, or one name comes twice."""
    end = good.rindex(b"PK\x05\x06")
    count, size, start = struct.unpack("<HLL", good[end + 10 : end + 20])
    directory = good[start : start + size]
    many = good[:start] + directory * 300
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, size * 300, start, 0)
    refused(tmp_path / "a.pt", many + last, UnsafeCheckpointError, "entries of .* bytes in all|two entries of one name")
    sizes = bytearray(good)
    entry = start + directory.index(b"PK\x01\x02", 1)
    sizes[entry + 20 : entry + 28] = struct.pack("<LL", 1 << 30, 1 << 30)
    refused(tmp_path / "a.pt", bytes(sizes), UnsafeCheckpointError, r"entries of \d+ bytes in all, expected at most")


def _tensor(shape, stride, numel, storage="0", kind="FloatStorage", offset=0):
    """A pickle in torch's layout whose one tensor is described so."""

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

    stored = ("storage", getattr(torch, kind), storage, "cpu", numel)
    tensor = Payload(torch._utils._rebuild_tensor_v2, stored, offset, shape, stride, False, OrderedDict())
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"model": {"w": tensor}, "optimizer": None, "step": 1})
    return buffer.getvalue()


def only_w(shape):
    """A state of one param."""
    return fnopt.TrainState.of({"w": torch.zeros(shape)})


@pytest.mark.parametrize("shape", [(1 << 40,), (2, 2)])
def test_a_tensor_of_more_entries_than_bytes_is_refused_untouched(shape, tmp_path):
    """Stride 0 makes 2^40 entries, or 4, of one number: refused before a copy, also where the shape fits."""
    torch.save({"model": torch.zeros(1)}, tmp_path / "a.pt")
    data = with_pickle((tmp_path / "a.pt").read_bytes(), _tensor(shape, (0,) * len(shape), 1))
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(UnsafeCheckpointError, match=r"gives w of shape .* the strides .*, which leave gaps or overlap"):
        load_checkpoint(tmp_path / "a.pt", like=only_w((2, 2)))


def test_without_the_check_of_strides_it_would_load(tmp_path, monkeypatch):
    """Negative control: without it, four entries of one number pass for a tensor."""
    monkeypatch.setattr(torch_import, "check_strides", lambda *_: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_tensor_of_more_entries_than_bytes_is_refused_untouched((2, 2), tmp_path)


@pytest.mark.parametrize(("shape", "numel", "offset"), [((9,), 9, 0), ((9,), 1, 0), ((1,), 1, 5), ((1,), 1 << 50, 0)])
def test_a_number_of_entries_that_is_not_in_the_data_is_refused(shape, numel, offset, tmp_path):
    """A tensor or storage that says it has more than its record holds is damage."""
    torch.save({"model": torch.zeros(1)}, tmp_path / "a.pt")
    data = with_pickle((tmp_path / "a.pt").read_bytes(), _tensor(shape, (1,), numel, offset=offset))
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(CheckpointCorruptError, match="torch cannot load it"):
        load_checkpoint(tmp_path / "a.pt", like=only_w(shape))


def damaged(data, chance):
    """Flips, cuts, zeroed blocks and tails, spread over a file: (kind, bytes)."""
    for _ in range(300):
        at = chance.randrange(len(data))
        yield "flip", data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
    for _ in range(50):
        yield "cut", data[: chance.randrange(4, len(data))]
    for _ in range(50):
        at = chance.randrange(len(data) - 64)
        if data[at : at + 64] != bytes(64):
            yield "block", data[:at] + bytes(64) + data[at + 64 :]
    yield "tail", data + b"\0"


def verdicts(good, tmp_path):
    """What became of each damage: refused, the same state all the same, another state, or a foreign error."""
    counts, before = Counter(), fingerprint(load_checkpoint(tmp_path / "good.pt", like=LIKE))
    for _, data in damaged(good, random.Random(0)):
        (tmp_path / "a.pt").write_bytes(data)
        try:
            loaded = load_checkpoint(tmp_path / "a.pt", like=LIKE)
            counts["same" if fingerprint(loaded) == before else "silent"] += 1
        except CheckpointError:
            counts["refused"] += 1
        except Exception:
            counts["foreign"] += 1
    print(counts)
    return counts


def test_no_damage_passes(good, tmp_path):
    """Whatever is changed in the file, it is refused, or what is loaded is the same: dates and padding hold nothing."""
    counts = verdicts(good, tmp_path)
    assert counts["silent"] == counts["foreign"] == 0
    assert counts["refused"] > 150


def test_without_the_sums_damage_is_silent(good, tmp_path, monkeypatch):
    """Negative control: torch itself does not look at the CRC-32 of its entries."""
    monkeypatch.setattr(torch_archive, "_check_sums", lambda *_: None)
    assert verdicts(good, tmp_path)["silent"] > 10


def test_a_zip_archive_of_another_kind_is_named(tmp_path):
    """A document or a wheel is no torch file; neither is an archive that cannot be read."""
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("word/document.xml", "<a/>")
    (tmp_path / "a.pt").write_bytes(other.getvalue())
    with pytest.raises(NotACheckpointError, match=r"a zip archive with 0 files data\.pkl"):
        load_checkpoint(tmp_path / "a.pt", like=LIKE)


def test_a_folder_of_dcp_is_not_opened(tmp_path):
    """The metadata of torch.distributed.checkpoint is a pickle: it is refused, and said why."""
    (tmp_path / ".metadata").write_bytes(pickled(Payload(exec, "1")))
    with pytest.raises(UnsafeCheckpointError, match="whose metadata is a pickle"):
        load_checkpoint(tmp_path, like=LIKE)
