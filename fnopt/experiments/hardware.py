"""What this machine can show of mixed precision, and what it cannot, in plain words."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch


def hardware(device: torch.device, found: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Sentences about the processor (what torch found of it, or `found`), and about a GPU or that there is none.

    >>> _, bf16, fp16, _ = hardware(torch.device("cpu"), {"architecture": "x86_64", "avx512_bf16": True})
    >>> bf16
    'bf16: the CPU multiplies it (avx512_bf16), without tiles for matrices (no amx_bf16): expect some speed-up'
    >>> fp16.startswith("fp16: the CPU cannot multiply it (no avx512_fp16, no amx_fp16)")
    True
    """
    seen = capabilities() if found is None else found
    name, cores = seen.get("cpu_name", "unknown"), seen.get("num_physical_cores", "unknown")
    yield f"CPU: {name}, {seen.get('architecture', 'unknown')}, {cores} cores, torch uses {_level()}"
    if seen.get("architecture") == "x86_64":
        yield _bf16(seen)
        yield _fp16(seen)
    else:
        halves = [flag for flag, has in seen.items() if has is True and ("bf16" in flag or "fp16" in flag)]
        yield f"half precision: torch reports {', '.join(halves) or 'no instruction for it'}"
    yield _gpu(device)


def capabilities() -> dict[str, Any]:
    """What torch found of the CPU: flags of instructions, name, cores."""
    return cast(dict[str, Any], torch.cpu.get_capabilities())


def _level() -> str:
    return str(cast(Any, torch.backends.cpu).get_cpu_capability())


def _bf16(seen: Mapping[str, Any]) -> str:
    if seen.get("amx_bf16"):
        return "bf16: the CPU multiplies tiles of it (amx_bf16): what bf16 gains here is what such a CPU can gain"
    if seen.get("avx512_bf16"):
        return (
            "bf16: the CPU multiplies it (avx512_bf16), without tiles for matrices (no amx_bf16): expect some speed-up"
        )
    return (
        "bf16: the CPU cannot multiply it (no avx512_bf16, no amx_bf16) and converts it: its rounding is real, "
        "its speed says nothing about hardware that has it"
    )


def _fp16(seen: Mapping[str, Any]) -> str:
    if has := [flag for flag in ("amx_fp16", "avx512_fp16") if seen.get(flag)]:
        return f"fp16: the CPU multiplies it ({has[0]})"
    return (
        "fp16: the CPU cannot multiply it (no avx512_fp16, no amx_fp16) and converts it: its rounding and its loss "
        "scale are real, its speed says nothing about hardware that has it"
    )


def _gpu(device: torch.device) -> str:
    if not torch.cuda.is_available():
        return "GPU: none that torch sees, so nothing here says what mixed precision gains on one"
    name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    cores = "bf16 and fp16" if major >= 8 else "fp16 only" if major >= 7 else "neither half precision"
    used = "it was used" if device.type == "cuda" else "it was NOT used: the model is on the CPU"
    return f"GPU: {name}, compute capability {major}.{minor}, tensor cores for {cores}; {used}"
