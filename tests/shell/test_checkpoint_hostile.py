"""Files made to deceive: the digest is right, the rest is a lie or a bomb. Refused, at the cost of little memory."""

import tracemalloc

import pytest
import torch
from checkpoint_cases import bits, fields_of, fingerprint, resealed, sealed, small_state

from fnopt.checkpoint import load_checkpoint, save_checkpoint
from fnopt.checkpoint.container import PREFIX, Entry
from fnopt.checkpoint.migrate import SCHEMA
from fnopt.errors import (
    CheckpointCorruptError,
    CheckpointVersionError,
    StateMismatchError,
    UnsafeCheckpointError,
)


@pytest.fixture
def good(tmp_path):
    """The bytes of a good checkpoint."""
    return save_checkpoint(tmp_path / "good", small_state()).read_bytes()


def _set(key, value):
    return lambda document, entries: document.update({key: value})


def _complex_lie(document, entries):
    document["complex"].append("params/conv.weight")
    document["strides"] = {}


def _rename(name):
    def change(document, entries):
        old = entries[0].name
        entries[0] = Entry(name, entries[0].code, entries[0].shape)
        document["tree"] = [name if item == old else item for item in document["tree"]]

    return change


def _reshape(*shape):
    def change(document, entries):
        entries[0] = Entry(entries[0].name, entries[0].code, shape)

    return change


HUGE = [1 << 40] * 4


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_set("schema", SCHEMA + 1), CheckpointVersionError),
        (_set("schema", 0), CheckpointVersionError),
        (_set("schema", True), CheckpointVersionError),
        (_set("metric", "best"), CheckpointCorruptError),
        (_set("metric", 1), CheckpointCorruptError),
        (_set("serial", None), CheckpointCorruptError),
        (_set("schema", "one"), CheckpointVersionError),
        (_set("position", -1), StateMismatchError),
        (_set("position", 1.5), CheckpointCorruptError),
        (_set("position", True), CheckpointCorruptError),
        (_set("tree", []), CheckpointCorruptError),
        (_set("tree", {}), CheckpointCorruptError),
        (_set("tree", [["params"]]), CheckpointCorruptError),
        (_set("tree", [""]), UnsafeCheckpointError),
        (_set("strides", {"params/conv.weight": [0, 0, 0, 0]}), UnsafeCheckpointError),
        (_set("strides", {"params/conv.weight": HUGE}), UnsafeCheckpointError),
        (_set("strides", {"params/conv.weight": [8, 4, 2]}), UnsafeCheckpointError),
        (_set("strides", {"params/conv.weight": [-8, 4, 2, 1]}), UnsafeCheckpointError),
        (_set("strides", {"params/conv.weight": ["8", 4, 2, 1]}), CheckpointCorruptError),
        (_set("strides", [1]), CheckpointCorruptError),
        (_set("complex", []), StateMismatchError),
        (_complex_lie, StateMismatchError),
        (_set("environment", None), CheckpointCorruptError),
        (lambda document, entries: document.pop("info"), CheckpointCorruptError),
        (lambda document, entries: document["tree"].append(document["tree"][0]), CheckpointCorruptError),
        (lambda document, entries: document["tree"].append("params/q"), CheckpointCorruptError),
        (_reshape(2.0, 2), CheckpointCorruptError),
        (_reshape(True, 4), CheckpointCorruptError),
        (_reshape(-2, -2), CheckpointCorruptError),
        (_rename("params/../../etc/passwd"), UnsafeCheckpointError),
        (_rename("params/a\x1b[2J"), UnsafeCheckpointError),
        (_rename("/etc/passwd"), UnsafeCheckpointError),
        (_rename("params/ü"), UnsafeCheckpointError),
    ],
)
def test_a_sealed_lie_is_refused(change, error, good, tmp_path):
    """A file with a right digest and a wrong document is refused before a tensor is made."""
    path = tmp_path / "lie"
    path.write_bytes(resealed(good, change))
    with pytest.raises(error) as caught:
        load_checkpoint(path, like=small_state())
    assert type(caught.value) is error
    assert caught.value.__cause__ is None or caught.value.__suppress_context__
    assert all(fields_of(caught.value)), fields_of(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b'"shape"', b' "shape"', 1),
        lambda text: text.replace(b'{"dtype":"BOOL"', b'{"dtype":"BOOL","dtype":"BOOL"', 1),
        lambda text: text.replace(b'"opt_state/step":', b'"opt_state/step":{"dtype":"I64"},"opt_state/step":', 1),
        lambda text: text.replace(b'"data_offsets":[16,24]', b'"data_offsets":[24,32]', 1),
        lambda text: text.replace(b'"data_offsets":[16,24]', b'"data_offsets":[-8,0]', 1),
        lambda text: text.replace(b'"fnopt":', b'"format":"pt","fnopt":', 1),
        lambda text: text.rstrip(b" ") + b"\n" * (len(text) - len(text.rstrip(b" "))),
    ],
)
def test_a_header_is_what_would_be_written_or_it_is_refused(change, good, tmp_path):
    """Spaces, duplicates, gaps, overlaps and additions in a sealed header are refused, whatever they would mean."""
    length = 8 + int.from_bytes(good[:8], "little")
    text = change(good[8:length])
    assert text != good[8:length]
    path = tmp_path / "lie"
    path.write_bytes(sealed(len(text).to_bytes(8, "little") + text + good[length:]))
    with pytest.raises(CheckpointCorruptError, match="header that fnopt would not write"):
        load_checkpoint(path, like=small_state())


def test_strides_of_nothing_may_be_anything(good, tmp_path):
    """A length of 1 or 0 takes any stride, as torch has it, and allocates nothing for it."""
    state = small_state()
    state.extra.update(one=torch.zeros(1, 2), none=torch.zeros(0, 2))
    huge = {"extra/one": [1 << 62, 1], "extra/none": [1 << 62, 1 << 62]}
    path = save_checkpoint(tmp_path / "a", state)
    path.write_bytes(resealed(path.read_bytes(), lambda document, entries: document["strides"].update(huge)))
    loaded = load_checkpoint(path, like=state)
    assert {f"extra/{name}": list(leaf.stride()) for name, leaf in loaded.extra.items()} == huge
    assert loaded.extra["one"].untyped_storage().nbytes() == 8


def test_a_later_schema_says_who_made_it(good, tmp_path):
    """The error has the writer's version, ours, and the fix."""

    def later(document, entries):
        document["schema"], document["environment"]["fnopt"] = SCHEMA + 1, "9.8.7"

    path = tmp_path / "later"
    path.write_bytes(resealed(good, later))
    with pytest.raises(CheckpointVersionError, match=rf"by fnopt 9\.8\.7 with schema {SCHEMA + 1}; this .*; upgrade"):
        load_checkpoint(path, like=small_state())


def test_what_a_later_writer_adds_is_ignored(good, tmp_path):
    """An unknown field of the document is no error: later versions only add."""
    path = tmp_path / "added"
    path.write_bytes(resealed(good, _set("novelty", [1, 2])))
    assert fingerprint(load_checkpoint(path, like=small_state())) == fingerprint(small_state())


SIZE = 10_000_000


def _header(text):
    """A file that is one header of about 10 MB, sealed."""
    head = PREFIX + b"0" * 64 + b'","fnopt":"'
    data = head + text
    return sealed(len(data).to_bytes(8, "little") + data)


ENTRY = '"{}":{{"dtype":"U8","shape":[],"data_offsets":[0,0]}},'
BOMBS = {
    "deep lists": _header(b'"},"a":' + b"[" * SIZE),
    "deep document": _header(b"[" * SIZE + b'"}}'),
    "deep, below the limit": _header(b'"},"a":' + b"[" * 299_000),
    "small values": _header(b'"},"a":[' + b"[]," * (SIZE // 3) + b"0]}"),
    "escaped values": _header(b"\\u005b" * (SIZE // 6) + b'"}}'),
    "tiny tensors": _header(b'"},' + "".join(ENTRY.format(i) for i in range(190_000)).encode()[:-1] + b"}"),
    "tensors at the limit": _header(b'"},' + "".join(ENTRY.format(i) for i in range(43_000)).encode()[:-1] + b"}"),
    "values at the limit": _header(b'"},"a":[' + b'{"":[]},' * 97_000 + b"0]}"),
    "a long number": _header(b'"},"a":' + b"9" * SIZE + b"}"),
    "a long string": _header(b"x" * SIZE + b'"}}'),
    "a huge shape": _header(b'"},"params/w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'),
    "a huge header": (1 << 60).to_bytes(8, "little") + PREFIX + b"0" * 64,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_file_costs_more_than_its_size_and_64_MB(bomb, tmp_path):
    """JSON bombs, deep or wide, huge headers, shapes and numbers are refused before they are interpreted in full."""
    path, like = tmp_path / "bomb", small_state()
    path.write_bytes(BOMBS[bomb])
    tracemalloc.start()
    try:
        with pytest.raises((CheckpointCorruptError, UnsafeCheckpointError)):
            load_checkpoint(path, like=like)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    print(f"{bomb}: {len(BOMBS[bomb]) / 1e6:.1f} MB, peak {peak / 1e6:.1f} MB")
    assert peak < len(BOMBS[bomb]) + 64e6


def test_the_limit_is_far_from_real_states(tmp_path):
    """20,000 tensors are no bomb."""
    state = small_state()
    state.extra.update({f"layer.{i}.weight": torch.full((2,), float(i)) for i in range(20_000)})
    path = save_checkpoint(tmp_path / "a", state)
    assert bits(load_checkpoint(path, like=state).extra["layer.777.weight"]) == bits(torch.full((2,), 777.0))
