"""Formulas for the site: `$…$` and `$$` blocks become MathML when the page is built, so a reader needs no script."""

import re
from functools import partial
from xml.etree.ElementTree import Element, fromstring, tostring

from fences import CODE, FENCED, outside
from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor

BLOCK = re.compile(r"^\$\$[ \t]*\n(.*?)^\$\$[ \t]*$", re.DOTALL | re.MULTILINE)
ACCENTS = {"\u00af", "^", "~", "\u02c6", "\u02dc", "\u2192"}
INLINE = r"(?<![\\$\w])\$(?=[^\s$])((?:\\.|[^\\$\n]|\n(?!\n))*?(?<!\s))\$(?![\w$])"


def formula(tex: str, display: str) -> Element:
    """The MathML of a formula. Raises ValueError, with the formula, for what it does not know."""
    tex = re.sub(r"(?<=[{])aligned(?=[}])", "align*", " ".join(tex.split()))
    try:
        made = fromstring(re.sub(r' xmlns="[^"]*"', "", convert(tex, display=display)))
    except Exception as error:
        raise ValueError(f"no formula: {tex!r} ({type(error).__name__}: {error})") from error
    for element in made.iter():
        if element.tag in {"mi", "mo"} and (element.text or "").startswith(("\\", "&")):
            raise ValueError(f"no formula: {tex!r} (unknown: {element.text})")
        if element.tag == "mover" and element[-1].text in ACCENTS:
            element.set("accent", "true")
            element[-1].set("stretchy", "false")
    return made


def formulas(text: str) -> list[tuple[str, str]]:
    """The formulas of a page, each with its display: "block" or "inline"."""
    text = FENCED.sub("", text)
    blocks = [(tex, "block") for tex in BLOCK.findall(text)]
    return blocks + [(tex, "inline") for tex in re.findall(INLINE, CODE.sub("", BLOCK.sub("", text)))]


class _Blocks(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        def block(found: re.Match[str]) -> str:
            made = tostring(formula(found[1], "block"), encoding="unicode")
            return "\n" + self.md.htmlStash.store(f'<div class="formula">{made}</div>') + "\n"

        return outside(partial(BLOCK.sub, block), "\n".join(lines)).split("\n")


class _Inline(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Element, int, int]:
        element = Element("span", {"class": "formula"})
        element.append(formula(m[1], "inline"))
        return element, m.start(0), m.end(0)


class MathML(Extension):
    """Before fences are read, blocks; among inline patterns, after code and before escapes."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(_Blocks(md), "formula_blocks", 27)
        md.inlinePatterns.register(_Inline(INLINE, md), "formulas", 185)


def makeExtension(**options: object) -> MathML:
    """What `markdown_extensions: [mathml]` calls."""
    return MathML(**options)
