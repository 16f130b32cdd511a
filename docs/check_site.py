"""What must hold of the built site: links and anchors lead somewhere, and nothing is fetched from elsewhere."""

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.names |= {name for key in ("id", "name") if (name := found.get(key))}
        if tag == "a" and (href := found.get("href")):
            self.links.append(href)
        if (key := FETCHED.get(tag)) and found.get("rel") != "canonical" and (target := found.get(key)):
            self.fetched.append(target)


@cache
def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def problems(site: Path) -> list[str]:
    """Every link that leads nowhere, and every file that would come from the network."""
    _read.cache_clear()
    found: list[str] = []
    for path in sorted(site.rglob("*.html")):
        page, name = _read(path), path.relative_to(site)
        found += [f"{name}: fetches {url}" for url in page.fetched if urlsplit(url).netloc]
        for url in dict.fromkeys([*page.links, *page.fetched]):
            if path.name != "404.html" and (why := _leads_nowhere(site, path, url)):
                found.append(f"{name}: {url} {why}")
    for style in site.rglob("*.css"):
        urls = re.findall(r"url\(\s*['\"]?(https?:)?//[^)]*\)", style.read_text(encoding="utf-8"))
        found += [f"{style.relative_to(site)}: fetches {url}" for url in urls]
    return found


def _leads_nowhere(site: Path, path: Path, url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(site.resolve()) or not target.is_file():
        return "does not exist"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _read(target).names:
        return "has no such anchor"
    return ""
