"""Scripts with fnopt.Trainer that are killed at random moments, and started again until they end: the same bits."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "reliability"))

import killed
from verdict import ROOT, isolated

LOST = {"cosine": ["position", "seed", "updates", "buffers", "opt_state", "loss_scale"]}
LOST["plateau"] = ["extra", "marks", "callbacks"]
PLACE = {"cosine": 13, "plateau": 46}


def test_a_killed_script_ends_at_the_same_bits():
    """Three kills: state, best file, validation and log are those of the uninterrupted run."""
    assert isolated("killed", "killed", run="cosine", kills=3).failures == []


@pytest.mark.slow
@pytest.mark.parametrize("run", killed.RUNS)
def test_a_script_that_is_killed_for_long_does_too(run):
    """60 kills of each, a third by each signal: -9, 143 and 130 come back, and the ends are equal."""
    verdict = isolated("killed", "killed", run=run, kills=60, seed=1)
    print(verdict)
    assert verdict.failures == []
    assert [verdict.facts[number.name] for number in killed.STATUS] == [20, 20, 20]
    assert verdict.facts["interrupted ends"] >= 8


@pytest.mark.parametrize("run", LOST)
def test_a_load_that_forgets_is_seen(run):
    """Negative control: `load_checkpoint` leaves one thing as in a fresh run, and the end is another; or nothing."""
    verdict = isolated("killed", "forgetful", run=run, position=PLACE[run], forgets=["", *LOST[run]])
    assert (verdict.cases, verdict.failures) == (1 + len(LOST[run]), [])
    assert [what for what, parts in verdict.facts.items() if not parts] == [""]


@pytest.mark.parametrize("run", killed.RUNS)
def test_a_script_that_has_ended_changes_nothing(run, tmp_path, one_thread):
    """Started again, as after a kill between the last save and the end, it stays at its end: an early stop, too."""
    first = killed.script(run, tmp_path)
    assert killed.script(run, tmp_path) == first
    stopped_early = {"cosine": False, "plateau": True}[run]
    assert (first["log"][-1]["position"] < 2 * killed.RUNS[run]()["max_epochs"]) == stopped_early


@pytest.mark.slow
@pytest.mark.parametrize("number", killed.STATUS)
def test_in_processes_of_their_own(number, tmp_path):
    """Python from its start to its own exit, three times killed: the status of the signal, and the same bits."""
    chance, statuses = random.Random(0), []
    while len(statuses) < 3:
        statuses += filter(None, [one_life(tmp_path, number, chance.uniform(0.0, 0.1))])
        (tmp_path / "end.json").unlink(missing_ok=True)
    assert one_life(tmp_path) == 0
    assert statuses == [killed.STATUS[number]] * 3
    whole = tmp_path / "whole"
    whole.mkdir()
    assert one_life(whole) == 0
    assert json.loads((tmp_path / "end.json").read_text()) == json.loads((whole / "end.json").read_text())


def one_life(folder, number=None, delay=0.0):
    """A Python that runs the script; it gets the signal so long after the next row of its log."""
    paths = {"PYTHONPATH": f"{ROOT}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", killed.__file__, "long", str(folder)]
    process = subprocess.Popen(command, env=paths, stderr=subprocess.PIPE, text=True)
    if number is not None:
        before = size(folder)
        while size(folder) == before and process.poll() is None:
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode in (0, -9) or f"stopped by {signal.Signals(number).name}; saved {folder}" in said, said
    return process.returncode


def size(folder):
    """Of the log."""
    return (folder / "log.jsonl").stat().st_size if (folder / "log.jsonl").exists() else 0
