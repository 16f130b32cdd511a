"""Files that are damaged, hostile or of another kind are refused, each with its error, and cost little memory."""

import errno
import itertools
import json
import random
import zlib

import pytest
import torch
from checkpoint_cases import fields_of, fingerprint, sealed, small_state
from safetensors.torch import save_file

from fnopt.checkpoint import load_checkpoint, read_info, reader, save_checkpoint
from fnopt.checkpoint.container import DIGEST
from fnopt.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointReadError,
    NotACheckpointError,
)


@pytest.fixture
def good(tmp_path):
    """The bytes of a good checkpoint."""
    return save_checkpoint(tmp_path / "good", small_state(), {"note": "x" * 40}).read_bytes()


def damaged(data):
    """Every kind of damage, spread over the whole file: (kind, bytes)."""
    chance = random.Random(0)
    for at in range(len(data)):
        yield "flip", flipped(data, at, chance.randrange(8))
    for _ in range(400):
        yield "flip", flipped(data, chance.randrange(len(data)), chance.randrange(8))
    for _ in range(200):
        yield "cut", data[: chance.randrange(len(data))]
    for _ in range(200):
        size = chance.choice([8, 64, 256])
        a, b = chance.randrange(len(data) - size), chance.randrange(len(data) - size)
        broken = bytearray(data)
        if chance.random() < 0.5:
            broken[a : a + size] = bytes(size)
        else:
            broken[a : a + size], broken[b : b + size] = data[b : b + size], data[a : a + size]
        if broken != data:
            yield "block", bytes(broken)
    for tail in (b"\0", b" ", data):
        yield "tail", data + tail


def flipped(data, at, bit):
    """One bit changed."""
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def verdicts(tmp_path, cases):
    """How often each kind of damage was tried, and how often it was refused, passed unnoticed, or raised otherwise."""
    path, chance = tmp_path / "broken", random.Random(1)
    kinds, counts = dict.fromkeys(("flip", "cut", "block", "tail"), 0), {"refused": 0, "silent": 0, "foreign": 0}
    for kind, broken in cases:
        path.write_bytes(broken)
        kinds[kind] += 1
        try:
            load_checkpoint(path, like=small_state()) if chance.random() < 0.7 else read_info(path)
            counts["silent"] += 1
        except CheckpointError as error:
            counts["refused" if error.path == str(path) else "foreign"] += 1
        except Exception:
            counts["foreign"] += 1
    print(kinds, counts)
    return kinds, counts


def test_no_damage_passes(good, tmp_path):
    """A flip in every byte, 400 more, 200 cuts, 200 blocks zeroed or swapped, and tails: none silent, none foreign."""
    kinds, counts = verdicts(tmp_path, damaged(good))
    assert kinds["flip"] == len(good) + 400
    assert kinds["cut"] == 200
    assert kinds["block"] > 100
    assert counts == {"refused": sum(kinds.values()), "silent": 0, "foreign": 0}


def test_without_the_digest_damage_is_silent(good, tmp_path, monkeypatch):
    """Negative control: with the digest switched off, flips pass."""
    monkeypatch.setattr(reader.Reader, "_damage", lambda self: None)
    assert verdicts(tmp_path, itertools.islice(damaged(good), 0, None, 10))[1]["silent"] > 50


def test_good_files_raise_no_alarm(tmp_path):
    """100 good files load."""
    for seed in range(100):
        path = save_checkpoint(tmp_path / "a", small_state(seed), {"seed": seed})
        assert fingerprint(load_checkpoint(path, like=small_state())) == fingerprint(small_state(seed))


def test_damage_is_told_from_mismatch(good, tmp_path):
    """Whatever the damage makes of the header, the error says that the file is damaged, with what and how much."""
    path = tmp_path / "broken"
    for old, new in (
        (b"conv", b"Conv"),
        (b'"F32"', b'"I32"'),
        (b"[2,2,2,2]", b"[4,2,2,1]"),
        (b'\\"seed\\":7', b'\\"seed\\":8'),
    ):
        assert old in good
        path.write_bytes(good.replace(old, new))
        with pytest.raises(CheckpointCorruptError) as caught:
            load_checkpoint(path, like=small_state())
        assert caught.value.item == "sha256"
    path.write_bytes(good[:-5])
    with pytest.raises(CheckpointCorruptError, match=f"has {len(good) - 5} bytes, expected {len(good)}"):
        load_checkpoint(path, like=small_state())


def png():
    """The smallest PNG image."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(17) + zlib.compress(b"\0")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "an empty file"),
        (b"epoch: 3\nloss: 0.1\n", "a text file"),
        (png(), "a PNG image"),
        (b"PK\x03\x04" + bytes(200), "a zip archive, such as torch.save writes"),
        (b"\x80\x02}q\0.", "some other file"),
        (bytes(1000), "some other file"),
    ],
)
def test_another_kind_of_file_is_named(data, kind, tmp_path):
    """What is no checkpoint is refused by what it is."""
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(NotACheckpointError, match=f"is {kind}, expected a checkpoint"):
        read_info(path)
    cut = data.startswith(b"PK")  # load_checkpoint reads whole ones
    with pytest.raises(CheckpointCorruptError if cut else NotACheckpointError, match="was cut" if cut else kind):
        load_checkpoint(path, like=small_state())


def test_a_folder_a_device_and_a_plain_safetensors_file_are_named(tmp_path):
    """So are a directory, a device (which is not opened) and weights that another tool saved."""
    save_file({"params/w": torch.zeros(2)}, tmp_path / "plain", {"format": "pt"})
    for path, kind in (
        (tmp_path, "a directory"),
        ("/dev/zero", "a device"),
        (tmp_path / "plain", "a safetensors file"),
    ):
        with pytest.raises(NotACheckpointError, match=kind):
            load_checkpoint(path, like=small_state())


def test_a_missing_file_names_the_nearest(tmp_path):
    """The error is a FileNotFoundError that lists similar names, or the nearest folder that exists."""
    for name in ("step-100.safetensors", "step-200.safetensors", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointNotFoundError, match=r"nearest names in .*: step-.00.safetensors, step-") as caught:
        load_checkpoint(tmp_path / "step-300.safetensors", like=small_state())
    assert isinstance(caught.value, FileNotFoundError)
    assert caught.value.errno == errno.ENOENT
    assert "notes" not in str(caught.value)
    with pytest.raises(CheckpointNotFoundError, match=f"nearest one is {tmp_path}"):
        read_info(tmp_path / "no" / "such" / "file")
    with pytest.raises(CheckpointNotFoundError):
        read_info(tmp_path / "notes.txt" / "file")


def test_a_file_that_cannot_be_read_keeps_the_errno(good, tmp_path, monkeypatch):
    """What the system refuses is a CheckpointReadError with its errno."""

    class Broken(reader.FileIO):
        def readinto(self, data):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(reader, "FileIO", Broken)
    with pytest.raises(CheckpointReadError, match=r"cannot read .*Input/output error") as caught:
        load_checkpoint(tmp_path / "good", like=small_state())
    assert caught.value.errno == errno.EIO


def test_the_digest_covers_the_file_with_its_own_digits_blank(good):
    """Anyone can verify a file with sha256 alone, and the document is plain JSON in a plain safetensors header."""
    assert sealed(good) == good
    header = json.loads(good[8 : 8 + int.from_bytes(good[:8], "little")])
    assert header["__metadata__"]["fnopt.sha256"].encode() == good[DIGEST]
    text = header["__metadata__"]["fnopt"]
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text


def test_every_refusal_says_all_that_it_knows(good, tmp_path, monkeypatch):
    """Path, item, expected, found and hint are filled for every kind of file that is refused, and of the system."""
    (tmp_path / "empty").touch()
    (tmp_path / "cut").write_bytes(good[:-5])
    (tmp_path / "flipped").write_bytes(flipped(good, len(good) - 1, 0))
    (tmp_path / "archive").write_bytes(b"PK\x03\x04")

    def closed(name):
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("missing", "", "empty", "cut", "flipped", "archive", "empty/below", "good"):
        if name == "good":
            monkeypatch.setattr(reader, "FileIO", closed)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(tmp_path / name, like=small_state())
        assert all(fields_of(caught.value)), (name, fields_of(caught.value))
