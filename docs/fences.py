"""Markdown apart from the code in it."""

import re
from collections.abc import Callable

FENCED = re.compile(r"^[ \t]*(```+|~~~+)[^\n]*\n(?:.*?\n)?[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)


def outside(change: Callable[[str], str], text: str) -> str:
    """`change` what is not in a fenced block."""
    made, last = "", 0
    for fence in FENCED.finditer(text):
        made += change(text[last : fence.start()]) + fence[0]
        last = fence.end()
    return made + change(text[last:])


def prose(text: str) -> str:
    """A page without its code: what is left of it can hold links and formulas."""
    return CODE.sub("", FENCED.sub("", text))
