"""Build the site: run every page's code, draw its figures, render, and check every link.

    python docs/build.py [--out site] [--no-run]

Needs `pip install -e ".[docs]"`. Strict: whatever is wrong with a page or a link ends it. The site needs no network and
no server: open index.html.
"""

import argparse
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

import check_site
import figures
import pages
from fences import outside

SHIM = "https://unpkg.com/iframe-worker/shim"
CODE = "source"  # the folder of the site where files of the repository are shown
KINDS = {".py": "python", ".toml": "toml", ".sh": "sh", ".yml": "yaml", ".json": "json"}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Build the site of fnopt's documentation.")
    parser.add_argument("--out", type=Path, default=pages.ROOT / "site", help="the folder to write (default: site/)")
    parser.add_argument("--no-run", action="store_true", help="take the figures as they are, run no code")
    arguments = parser.parse_args()
    for problem in [problem for page in pages.all_pages() for problem in pages.broken_links(page)]:
        sys.exit(problem)
    if not arguments.no_run:
        for page in pages.all_pages():
            draw(page)
    with tempfile.TemporaryDirectory() as folder:
        stage(Path(folder))
        render(Path(folder))
        problems = check_site.problems(Path(folder, "site"))
        if problems:
            sys.exit("\n".join(problems))
        shutil.rmtree(arguments.out, ignore_errors=True)
        shutil.copytree(Path(folder, "site"), arguments.out)
    print(f"{len(list(arguments.out.rglob('*.html')))} pages, every link checked: {arguments.out / 'index.html'}")


def draw(page: Path) -> None:
    """Run a page; where a figure looks different from the one in the tree, put the new one there."""
    print(f"run {page.relative_to(pages.ROOT)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, drawn in pages.run(page, Path(folder)).items():
            new, kept = drawn.read_text(encoding="utf-8"), page.parent / name
            if not kept.exists() or figures.differences(kept.read_text(encoding="utf-8"), new):
                kept.parent.mkdir(exist_ok=True)
                kept.write_text(new, encoding="utf-8")
                print(f"drew {kept.relative_to(pages.ROOT)}")


def stage(folder: Path) -> None:
    """The sources of the site: the pages, with links out of this folder and `:::` lines made for the site."""
    tools = shutil.ignore_patterns("*.py", "__pycache__", "mkdocs.yml", "*.mplstyle")
    shutil.copytree(pages.DOCS, folder / "docs", ignore=tools)
    shutil.copy(pages.DOCS / "mkdocs.yml", folder)
    shutil.copy(pages.DOCS / "docstrings.py", folder)
    (folder / "fnopt").symlink_to(pages.ROOT / "fnopt")
    shown: set[Path] = set()
    for page in sorted(pages.DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        shows = entry if page.parent.name == "reference" else source
        text = pages.SOURCE.sub(lambda line, shows=shows: shows(line[1]), text)
        (folder / "docs" / page.relative_to(pages.DOCS)).write_text(inward(page, text, shown), encoding="utf-8")
    for file in shown:
        to = folder / "docs" / CODE / f"{file.relative_to(pages.ROOT)}.md"
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(shown_file(file), encoding="utf-8")


def inward(page: Path, text: str, shown: set[Path]) -> str:
    """Links to files of the repository become links to pages that show them; notes which files."""

    def link(found: re.Match[str]) -> str:
        path, _, anchor = found[1].partition("#")
        target = (page.parent / path).resolve()
        if re.match(r"[a-z]+:", path) or not path or not target.is_file():
            return found[0]
        if target.is_relative_to(pages.DOCS) and target.suffix not in KINDS:
            return found[0]
        shown.add(target)
        to = pages.DOCS / CODE / f"{target.relative_to(pages.ROOT)}.md"
        return f"]({os.path.relpath(to, page.parent)}{'#' * bool(anchor)}{anchor})"

    return outside(partial(pages.LINK.sub, link), text)


def shown_file(file: Path) -> str:
    """A page that shows a file of the repository."""
    name, text = file.relative_to(pages.ROOT), file.read_text(encoding="utf-8")
    head = f"---\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n\n# {name}\n\n"
    return f'{head}``````{KINDS.get(file.suffix, "text")} linenums="1"\n{text.rstrip()}\n``````\n'


def entry(name: str) -> str:
    """The line that documents a public name; `fnopt.accumulate`, say, is a function in a module of the same name."""
    room, _, last = name.rpartition(".")
    folder = Path(inspect.getfile(resolve_name(room))).parent
    if not (folder / f"{last}.py").exists() and not (folder / last).is_dir():
        return f"::: {name}"
    return f'<a id="{name}"></a>\n\n::: {name}.{last}\n    options:\n      heading: {name}\n'


def source(name: str) -> str:
    """The code of a public name as it stands in its file, with the numbers of its lines."""
    thing = pages.named(name)
    lines, first = inspect.getsourcelines(thing)
    file = Path(inspect.getsourcefile(thing) or "").resolve().relative_to(pages.ROOT)
    return f'``````python title="{file}" linenums="{first}"\n{"".join(lines).rstrip()}\n``````'


def render(folder: Path) -> None:
    """Call zensical, strictly: what it warns of is an error."""
    path = os.pathsep.join([str(pages.DOCS), str(pages.ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "-f", str(folder / "mkdocs.yml")]
    settings = {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1"}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    for page in (folder / "site").rglob("*.html"):  # zensical would fetch what makes the search work from a folder
        local = os.path.relpath(folder / "site" / "worker.js", page.parent)
        page.write_text(page.read_text(encoding="utf-8").replace(SHIM, local), encoding="utf-8")
    if done.returncode or re.search(r"(?i)\bwarning\b|\berror\b", said):
        sys.exit(f"zensical, with status {done.returncode}:\n{said}")


if __name__ == "__main__":
    main()
