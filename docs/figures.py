"""Figures as SVG: drawn in one style, written without what differs from run to run, compared by what one sees."""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from xml.etree import ElementTree

STYLE = Path(__file__).resolve().parent / "figures.mplstyle"
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")
NAMES = re.compile(r'\bid="([^"]+)"')
PLACES = {"d", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "points", "transform", "viewBox"}
TOLERANCE = 0.5  # points


@contextmanager
def drawing() -> Iterator[None]:
    """Draw without a screen, in the style of these pages, into figures/ of the current folder."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    folder = Path("figures")
    folder.mkdir()
    try:
        with plt.style.context(STYLE):
            yield
    finally:
        plt.close("all")
    for path in folder.glob("*.svg"):
        path.write_text(plain(path.read_text(encoding="utf-8")), encoding="utf-8")


def plain(svg: str) -> str:
    """An SVG of matplotlib without date and version, its numbers to a hundredth of a point, its names by order."""
    svg = re.sub(r"\s*<metadata>.*?</metadata>|<!DOCTYPE.*?>\s*|\s*<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"-?\d+\.\d{3,}", _short, tag[0]), svg)  # not in texts
    for index, name in enumerate(dict.fromkeys(NAMES.findall(svg))):
        if re.fullmatch(r"[pmhC]\w*[0-9a-f]{8,}\w*", name):  # clip paths, markers, hatches: a hash of what they are
            svg = re.sub(rf"(?<=[#\"]){re.escape(name)}(?=[\")])", f"n{index}", svg)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def differences(old: str, new: str, tolerance: float = TOLERANCE) -> list[str]:
    """What one would see of the difference of two SVGs.

    Elements, texts and colours must be equal; where something lies may differ by half a point, a third of the width of
    a line. Rounding on another CPU moves a curve by 1e-4 of the picture, some hundredths of a point; what moves one by
    half a point is another curve.
    """
    found: list[str] = []
    for a, b in zip_longest(_elements(old), _elements(new), fillvalue=("nothing", {})):
        if a[0] != b[0] or a[1].keys() != b[1].keys():
            return [*found, f"<{a[0]} {sorted(a[1])}> became <{b[0]} {sorted(b[1])}>"]
        found += [
            f"{a[0]} {key}: {a[1][key][:80]!r} became {b[1][key][:80]!r}"
            for key in a[1]
            if not _same(key, a[1][key], b[1][key], tolerance)
        ]
    return found


def _elements(svg: str) -> Iterator[tuple[str, dict[str, str]]]:
    for element in ElementTree.fromstring(plain(svg)).iter():
        yield element.tag.rpartition("}")[2], {**element.attrib, "text": (element.text or "").strip()}


def _same(key: str, a: str, b: str, tolerance: float) -> bool:
    if a == b:
        return True
    if a.startswith("data:image/png") and b.startswith("data:image/png"):
        return _same_pixels(a, b)
    if key not in PLACES:
        return False
    xs, ys = NUMBER.findall(a), NUMBER.findall(b)
    if len(xs) != len(ys) or NUMBER.sub("0", a) != NUMBER.sub("0", b):
        return False
    return all(abs(float(x) - float(y)) <= tolerance for x, y in zip(xs, ys, strict=True))


def _same_pixels(a: str, b: str) -> bool:
    import numpy as np
    from matplotlib.image import imread

    first, second = (imread(io.BytesIO(base64.b64decode(data.partition(",")[2]))) for data in (a, b))
    return first.shape == second.shape and bool(np.abs(first - second).max() <= 2 / 255)
