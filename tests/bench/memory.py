"""Peak memory of one donated update, and growth over a thousand.

python tests/bench/memory.py
"""

import re
from pathlib import Path

from harness import Claim, Figures, main
from shapes import flat, gpt
from update import chain

MB = 2**20


def field(name: str) -> float:
    """VmRSS or VmHWM of this process, in MB."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def peak() -> Figures:
    """What one update takes beside the state and the gradients, over the size of the gradients."""
    run, _ = chain(gpt())
    for _ in range(5):
        run()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = field("VmRSS")
    run()
    return Figures(field("VmHWM") - before, 4 * flat(gpt())["all"][0] / MB)


def growth() -> Figures:
    """Resident memory after a thousand updates more, over that before."""
    run, _ = chain(gpt())
    for _ in range(20):
        run()
    before = field("VmRSS")
    for _ in range(1000):
        run()
    return Figures(field("VmRSS"), before)


CLAIMS = [
    Claim("peak", "extra memory of one donated chain, GPT", "size of the gradients", 1.1, peak, unit="MB"),
    Claim("growth", "memory after 1,000 updates more", "memory before", 1.01, growth, unit="MB"),
]


if __name__ == "__main__":
    main(CLAIMS)
