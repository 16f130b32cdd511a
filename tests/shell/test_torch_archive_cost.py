"""Torch files that would cost more than their size: refused before they are listed or loaded."""

import io
import struct
import tracemalloc
import zipfile

import pytest
import torch
from archive_cases import LIKE, OPTIMIZER, pickled, refused, with_pickle

import fnopt
from fnopt import export_torch, load_checkpoint
from fnopt.checkpoint import torch_archive
from fnopt.errors import (
    CheckpointCorruptError,
    NotACheckpointError,
    UnsafeCheckpointError,
)

MANY = {
    "empty dicts": b"}0" * 2_000_000,
    "empty lists": b"(" + b"]" * 1_000_000 + b"l",
    "ordered dicts": b"ccollections\nOrderedDict\nq\x00" + b"(" + b"h\x00)R" * 400_000 + b"l",
    "deep lists": b"]" * 1_000_000 + b"a" * 999_999,
    "one long text": b"X" + (9_000_000).to_bytes(4, "little") + b"a" * 8_999_996 + "\U0001f600".encode(),
    "lists at the limit": b"(" + b"]" * 500_000 + b"l",
    "ordered dicts at the limit": b"ccollections\nOrderedDict\nq\x00" + b"(" + b"h\x00)R" * 300_000 + b"l",
    "a wide dict": b"}(" + b"".join(b"J" + n.to_bytes(4, "little") + b"N" for n in range(400_000)) + b"u",
    "tuples at the limit": b")" + b"\x85" * 700_000,
}


SLOW = {"lists at the limit", "ordered dicts at the limit", "a wide dict", "tuples at the limit", "empty dicts"}


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in MANY])
def test_no_torch_file_costs_more_than_its_size_and_64_MB(case, tmp_path):
    """Pickles that make many or large objects of few bytes are refused first."""
    torch.save({"model": torch.zeros(1)}, tmp_path / "a.pt")
    data = with_pickle((tmp_path / "a.pt").read_bytes(), b"\x80\x02" + MANY[case] + b".")
    (tmp_path / "a.pt").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises((UnsafeCheckpointError, CheckpointCorruptError, NotACheckpointError)):
            load_checkpoint(tmp_path / "a.pt", like=LIKE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    print(f"{case}: {len(data) / 1e6:.1f} MB, peak {peak / 1e6:.1f} MB")
    assert peak < len(data) + 64e6


@pytest.mark.slow
def test_without_the_check_of_the_pickle_it_costs_more(tmp_path, monkeypatch):
    """Negative control: without it, 2 MB of pickle make over 100 MB of lists."""
    monkeypatch.setitem(MANY, "empty lists", b"(" + b"]" * 2_000_000 + b"l")
    monkeypatch.setattr(torch_archive, "_check_pickle", lambda *_: None)
    with pytest.raises(AssertionError):
        test_no_torch_file_costs_more_than_its_size_and_64_MB("empty lists", tmp_path)


def test_many_entries_are_refused_before_they_are_listed(tmp_path):
    """A directory of 100,000 entries in 10 MB costs no list of them."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("a/data.pkl", pickled({}))
    raw = data.getvalue()
    end = raw.rindex(b"PK\x05\x06")
    start = raw.index(b"PK\x01\x02")
    directory = raw[start:end] * 100_000
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 34464, 34464, len(directory), start, 0)
    refused(tmp_path / "a.pt", raw[:start] + directory + last, UnsafeCheckpointError, "a zip directory of")


def test_real_files_are_far_from_the_limits(tmp_path):
    """1,500 tensors with the memory of AdamW are no bomb."""
    params = {f"layer.{place}.weight": torch.full((64,), float(place)) for place in range(1_500)}
    state = fnopt.TrainState.of(params, opt_state=OPTIMIZER.init_state(params))
    path = export_torch(tmp_path / "a.pt", state, optimizer=OPTIMIZER)
    assert float(load_checkpoint(path, like=state).params["layer.777.weight"][0]) == 777.0
