"""Runs of fnopt.Trainer that are killed at random moments, and go on as a script does that is started again.

python tests/trainer/killed.py RUN FOLDER: one life of such a script.
"""

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "reliability"))

import training
from forks import board, fork, returncode, wait_until
from trainer_cases import trainer
from verdict import Verdict

import fnopt
from fnopt.callbacks import EarlyStopping, read_rows
from fnopt.trainer.saves import Marks, Saves

STATUS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
BEGUN, STEPS, ENDED = range(3)
JITTER = 0.03  # seconds: some steps, or a validation and a save
Loaded = tuple[Any, Marks, dict[str, Any]]


def averaged_adamw() -> Any:
    """An optimizer that validates an average of the weights."""
    return fnopt.ema(fnopt.AdamW(0.05), decay=0.8)


RUNS: dict[str, Callable[[], dict[str, Any]]] = {
    "cosine": lambda: {
        "optimizer": averaged_adamw(),
        "scheduler": fnopt.warmup_cosine(peak=0.05, warmup=4, total=36),
        "grad_accum_steps": 2,
        "max_grad_norm": 0.5,
        "precision": "fp16",
        "eval_interval": 4,
        "max_epochs": 12,
    },
    "plateau": lambda: {
        "optimizer": averaged_adamw(),
        "scheduler": fnopt.plateau(0.05, factor=0.7, patience=0),
        "callbacks": [EarlyStopping(patience=4, min_delta=0.02)],
        "grad_accum_steps": 2,
        "eval_interval": 3,
        "max_epochs": 40,
    },
}
LONG = {"long": lambda: {**RUNS["cosine"](), "max_epochs": 100}}  # lives for seconds


class Told:
    """Tells how many steps were made, and does something after one of them."""

    def __init__(self, tell: Callable[[int], None]):
        self.tell = tell

    def on_update(self, view: Any) -> None:
        """After a step."""
        self.tell(view.position)


def script(run: str, folder: Path, tell: Callable[[int], None] = int) -> dict[str, Any]:
    """What a user's script does: begin, or go on from the newest file; what is there at the end."""
    arguments = (RUNS | LONG)[run]()
    callbacks = [*arguments.pop("callbacks", []), Told(tell)]
    made = trainer(**arguments, callbacks=callbacks, save_dir=folder)
    if any(folder.glob("step-*")):
        made.load_checkpoint()
    tell(0)
    found = made.train()
    rows = [{name: row[name] for name in row if name != "seconds"} for row in read_rows(folder / "log.jsonl")]
    best = hashlib.sha256((folder / "best.safetensors").read_bytes()).hexdigest()
    return {"state": training.print_of(made.state), "best": best, "validation": dict(found), "log": rows}


def killed(run: str, kills: int, seed: int = 0) -> Verdict:
    """The run, killed so often in all, by each signal in turn; whenever it comes to its end it is compared and begun
    again. Counted: the kills by signal, those before any file was there, and the runs that ended.
    """
    verdict, chance = Verdict(), random.Random(seed)
    whole = uninterrupted(run)
    steps = whole["log"][-1]["position"]
    numbers = [list(STATUS)[place % 3] for place in range(kills)]
    chance.shuffle(numbers)
    verdict.facts = {number.name: 0 for number in STATUS} | {"before any file": 0, "ended": 0, "interrupted ends": 0}
    while numbers:
        with tempfile.TemporaryDirectory() as name:
            folder, lives = Path(name), 0
            while code := _life(run, folder, numbers[:1], chance.randint(0, steps), chance.uniform(0, JITTER)):
                number = numbers.pop(0)  # an IndexError: the last life, which nobody disturbed, ended with an error
                lives += 1
                verdict.check(code == STATUS[number], f"{number.name}: ended with {code}: {_said(folder)}")
                verdict.count(number.name)
                verdict.facts["before any file"] += not any(folder.glob("step-*"))
            end = json.loads((folder / "end.json").read_text())
            other = [part for part in whole if end[part] != whole[part]]
            verdict.check(not other, f"run {verdict.facts['ended']}, {lives} times interrupted: other {other}")
            verdict.facts["ended"] += 1
            verdict.facts["interrupted ends"] += lives > 0
    return verdict


def uninterrupted(run: str) -> dict[str, Any]:
    """The end of a run that nothing happens to."""
    with tempfile.TemporaryDirectory() as folder:
        return json.loads(json.dumps(script(run, Path(folder))))


def _life(run: str, folder: Path, numbers: Sequence[signal.Signals], step: int, delay: float) -> int:
    """One process of the script, which gets this signal, if any, so long after a step; how it ended."""
    notes = board(3)

    def live() -> None:
        os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        for asks in (signal.SIGTERM, signal.SIGINT):  # those that come before or after train() are not its own
            signal.signal(asks, lambda *_: None)

        def tell(position: int) -> None:
            notes[BEGUN], notes[STEPS] = 1, position

        end = script(run, folder, tell)
        (folder / "end.json").write_text(json.dumps(end))
        notes[ENDED] = 1

    pid = fork(live)
    for number in numbers:
        wait_until(lambda: bool(notes[BEGUN] and notes[STEPS] >= step) or notes[ENDED] == 1)
        time.sleep(delay)
        os.kill(pid, number)
    return returncode(pid)


def _said(folder: Path) -> str:
    return (folder / "stderr").read_text()[-300:]


def forgetful(run: str, position: int, forgets: Sequence[str]) -> Verdict:
    """The run, stopped by SIGTERM after so many steps; the next life forgets one of these things when it loads.

    A fact for each: the parts of the end that are others than the uninterrupted run's.
    """
    verdict, whole = Verdict(), uninterrupted(run)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def stop(at: int) -> None:
        if at == position:
            signal.raise_signal(signal.SIGTERM)

    for what in forgets:
        with tempfile.TemporaryDirectory() as folder:
            try:
                script(run, Path(folder), stop)
            except SystemExit as asked:
                verdict.check(asked.code == 143, f"ended with {asked.code}")
            with forgetting(what):
                end = json.loads(json.dumps(script(run, Path(folder))))
        verdict.facts[what] = [part for part in whole if end[part] != whole[part]]
    return verdict


def _changed(**changes: Any) -> Callable[..., Loaded]:
    def change(found: Loaded, like: Any) -> Loaded:
        fresh = {name: getattr(like, name) if value is ... else value for name, value in changes.items()}
        return fnopt.evolve(found[0], **fresh), *found[1:]

    return change


FORGETS: dict[str, Callable[..., Loaded]] = {
    "": lambda found, like: found,
    "position": _changed(position=0),
    "seed": _changed(seed=1),
    "updates": _changed(updates=...),
    "buffers": _changed(buffers=...),
    "opt_state": _changed(opt_state=...),
    "loss_scale": _changed(loss_scale=...),
    "extra": _changed(extra=...),
    "marks": lambda found, like: (found[0], Marks(validated=found[1].validated), found[2]),
    "callbacks": lambda found, like: (*found[:2], {**found[2], "callbacks": {}}),
}


@contextmanager
def forgetting(what: str) -> Generator[None]:
    """A Trainer whose `load_checkpoint` leaves this as it is in a fresh run."""
    load = Saves.load

    def loading(self: Saves, path: Path | None, like: Any) -> Loaded:
        return FORGETS[what](load(self, path, like), like)

    Saves.load = loading
    try:
        yield
    finally:
        Saves.load = load


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
    typed = Path(sys.argv[2])
    (typed / "end.json").write_text(json.dumps(script(sys.argv[1], typed)))
