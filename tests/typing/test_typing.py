"""The types of fnopt under pyright strict: what is right passes, what is wrong fails, line by line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fnopt

HERE = Path(__file__).parent
CONFIG = {
    "include": ["passes", "fails"],
    "strict": ["passes", "fails"],
    "pythonVersion": "3.11",
    "reportMissingTypeStubs": False,  # as in pyproject.toml
}


def marked(folder):
    """(file, line) -> the rules that a comment `# error: rule, rule` names there."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if match := re.search(r"# error: (.+)$", line):
                found[f"{path.parent.name}/{path.name}", number] = set(match[1].split(", "))
    return found


def reported(folder):
    """(file, line) -> the rules that pyright finds broken there."""
    (folder / "pyrightconfig.json").write_text(json.dumps(CONFIG))
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--project", folder, "--pythonpath", sys.executable, "--outputjson"],
        env={**os.environ, "PYTHONPATH": str(Path(fnopt.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stderr  # others: it did not get to checking
    output = json.loads(run.stdout)
    assert output["summary"]["filesAnalyzed"] == len(list(folder.rglob("*.py")))
    found = {}
    for item in output["generalDiagnostics"]:
        path = Path(item["file"])
        place = f"{path.parent.name}/{path.name}", item["range"]["start"]["line"] + 1
        found.setdefault(place, set()).add(item.get("rule", item["message"]))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy outside of this project, whose own settings would count."""
    copy = tmp_path_factory.mktemp("typing")
    for part in ("passes", "fails"):
        shutil.copytree(HERE / part, copy / part)
    return copy


def test_every_marked_line_fails_and_no_other(folder):
    """Each line with a marker breaks exactly the rules that it names; all other lines are clean under strict."""
    expected = marked(folder)
    assert len(expected) > 30
    assert {path.partition("/")[0] for path, _ in expected} == {"fails"}
    assert reported(folder) == expected
