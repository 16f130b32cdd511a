"""`profile`: precisions differ where they must, the trace can be read, and the hardware is told as it is."""

import json

import pytest
import torch
from experiment_cases import task

from fnopt.experiments.hardware import capabilities, hardware
from fnopt.experiments.profile import profile


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A profile of all precisions, eager, and its trace."""
    trace = tmp_path_factory.mktemp("profile") / "deep" / "trace.json"
    return profile(task(), 4, trace, compile=False), json.loads(trace.read_text())


def test_precisions_train_the_same_and_round_differently(found):
    """bf16 and fp16 end near fp32 and not at it, bf16 further away; nothing overflows here, so nothing is skipped."""
    result, _ = found
    fp32, bf16, fp16 = result.sides
    assert [side.precision for side in result.sides] == ["fp32", "bf16", "fp16"]
    far, near = abs(bf16.held_out - fp32.held_out), abs(fp16.held_out - fp32.held_out)
    assert 0 < near < far < 0.05
    assert all(result.base(side) is fp32 for side in result.sides)
    assert [side.skipped for side in result.sides] == [0, 0, 0]


def test_the_table_has_a_line_for_each(found):
    """Speed-up of fp32 is 1, and it has no difference from itself."""
    lines = str(found[0]).splitlines()
    (fp32,) = [line for line in lines if line.startswith("fp32, eager")]
    assert fp32.split()[4] == "1.00"
    assert len(fp32.split()) == len(next(line for line in lines if line.startswith("bf16, eager")).split()) - 1


def test_the_trace_is_one_that_viewers_open(found):
    """JSON in the Trace Event format: events with begin and duration, those of each program inside its name."""
    events = found[1]["traceEvents"]
    complete = [event for event in events if event.get("ph") == "X"]
    assert all({"name", "ts", "dur", "pid", "tid"} <= event.keys() and event["dur"] >= 0 for event in complete)
    for name in ("fp32, eager", "bf16, eager", "fp16, eager"):
        (whole,) = [event for event in complete if event["name"] == name and event["cat"] == "user_annotation"]
        begin, end = whole["ts"], whole["ts"] + whole["dur"]
        assert sum(begin <= event["ts"] <= end and event["name"].startswith("aten::") for event in complete) > 20


@pytest.mark.parametrize(
    ("flags", "bf16", "fp16"),
    [
        ({}, "cannot multiply it", "cannot multiply it"),
        ({"avx512_bf16": True}, "avx512_bf16), without tiles", "cannot multiply it"),
        ({"avx512_bf16": True, "amx_bf16": True}, "tiles of it (amx_bf16)", "cannot multiply it"),
        ({"avx512_fp16": True}, "cannot multiply it", "multiplies it (avx512_fp16)"),
        ({"amx_fp16": True}, "cannot multiply it", "multiplies it (amx_fp16)"),
    ],
)
def test_what_a_cpu_can_show_follows_its_flags(flags, bf16, fp16):
    """What lacks an instruction is said to be converted, and its speed to say nothing."""
    _, about_bf16, about_fp16, _ = hardware(torch.device("cpu"), {"architecture": "x86_64", **flags})
    assert bf16 in about_bf16
    assert fp16 in about_fp16
    assert ("says nothing" in about_bf16) == ("cannot" in bf16)


def test_other_processors_are_told_by_what_torch_reports():
    """Where flags are not those of x86-64, the ones about half precision are listed."""
    _, half, _ = hardware(torch.device("cpu"), {"architecture": "aarch64", "arm_bf16": True, "arm_fp16": False})
    assert half == "half precision: torch reports arm_bf16"


@pytest.mark.parametrize(("major", "cores"), [(9, "bf16 and fp16"), (7, "fp16 only"), (6, "neither")])
def test_a_gpu_is_told_and_whether_it_was_used(monkeypatch, major, cores):
    """Name, compute capability, what its tensor cores multiply; and a GPU that was idle is called so."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (major, 0))
    *_, idle = hardware(torch.device("cpu"))
    *_, used = hardware(torch.device("cuda"))
    assert f"Some GPU, compute capability {major}.0, tensor cores for {cores}" in idle
    assert idle.endswith("it was NOT used: the model is on the CPU")
    assert used.endswith("it was used")


def test_this_machine_is_described():
    """torch's own capabilities give a sentence for each thing, without a hole."""
    assert capabilities()
    lines = list(hardware(torch.device("cpu")))
    assert len(lines) >= 3
    assert "None" not in "".join(lines)
