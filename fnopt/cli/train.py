"""Training in a folder: step, log, validate, save; then the curve and a sample. Stopped at any moment, it can go on."""

import importlib.util
import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ..errors import NonFiniteError
from ..loop import run
from ..record import evolve
from ..state import TrainState, load_into
from .folder import BEST, CURVE, LAST, LOG, SAMPLE, Folder, Run
from .log import read_rows
from .progress import Progress, progress
from .sample import generate

PATIENCE = 30  # skipped steps in a row; a float16 run may need 20 to find its loss scale


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a run as Ctrl-C does."""


def train(folder: Folder, now: Run, shown: Progress) -> Iterator[Run]:
    """Train to the end and hand over the run after every whole step; it may be stopped anywhere in between."""
    config, log, began = folder.job.config, folder.log, time.perf_counter()
    for state, metrics in run(folder.job.step, now.state, folder.job.data, config.updates):
        log.update(state, metrics, time.perf_counter() - began)
        now = evolve(now, state=state)
        if state.position % config.eval_every == 0:
            now = folder.validate(now)
        if state.position % config.log_every == 0 or now.validated == state.position:
            shown.show(log.flush())
            check_finite(state)
        if state.position % config.save_every == 0:
            folder.save(now)
        yield now
        began = time.perf_counter()
    if now.validated < now.state.position:
        now = folder.validate(now)
    shown.show(log.flush())
    folder.save(now)
    yield now


def check_finite(state: TrainState) -> None:
    """Refuse to go on where nothing but skipped steps would follow."""
    in_a_row = int(state.loss_scale["skipped_in_a_row"])
    if in_a_row >= PATIENCE:
        raise NonFiniteError(
            f"{in_a_row} steps in a row were skipped, because their loss or gradient is not finite; take a smaller --lr"
        )


def work(folder: Folder, now: Run) -> int:
    """The whole command from `now` on; returns the exit status."""
    print(headline(folder, now), flush=True)
    try:
        with sigterm_stops(), progress(*extent(folder, now)) as shown:
            for latest in train(folder, now, shown):
                now = latest
        finish(folder, now)
    except KeyboardInterrupt as stop:
        folder.save(now)
        done = f"update {int(now.state.updates)} of {folder.job.config.updates}"
        print(f"\nsaved {folder.path / LAST} ({done}); continue with: fnopt resume {folder.path}", flush=True)
        return 143 if isinstance(stop, Terminated) else 130
    return 0


def extent(folder: Folder, now: Run) -> tuple[int, int, int]:
    """Updates at the end and now, and steps skipped so far."""
    return folder.job.config.updates, int(now.state.updates), int(now.state.loss_scale["skipped"])


def headline(folder: Folder, now: Run) -> str:
    """What is going to happen, and what will be missing."""
    job, config = folder.job, folder.job.config
    size = sum(leaf.numel() for leaf in now.state.params.values())
    update = config.batch_size * config.micro_batches * config.context
    lines = [
        f"GPT of {size:,} parameters, {config.precision}, {config.threads} threads; "
        f"text: {len(job.data.dataset) * config.context:,} bytes to train on, "
        f"{len(job.held_out.dataset) * config.context:,} held out",
        f"{config.updates:,} updates of {update:,} bytes ({config.updates / len(job.data):.1f} epochs) "
        f"in {folder.path}" + (f", from update {int(now.state.updates)} on" if now.state.position else ""),
    ]
    lacking = {"matplotlib": f"{CURVE} will not be drawn", "rich": "progress is plain lines"}
    missing = [what for name, what in lacking.items() if not importlib.util.find_spec(name)]
    if missing:
        lines.append(f"{' and '.join(missing)}; to have it: pip install 'fnopt[demo]'")
    return "\n".join(lines)


def finish(folder: Folder, now: Run) -> None:
    """Draw the curve, write a sample, say what was reached and where it is."""
    job, path, config = folder.job, folder.path, folder.job.config
    if importlib.util.find_spec("matplotlib"):
        from .curve import draw

        draw(read_rows(path / LOG), path / CURVE, f"{path.name}: best {now.best:.3f} bits per byte on held-out text")
    load_into(job.model, job.averaged(now.state))
    prompt = config.prompt.encode()
    text = generate(job.model, prompt, config.sample_bytes, temperature=config.temperature, seed=config.seed)
    (path / SAMPLE).write_bytes(text)
    print(f"\n{text.decode(errors='replace')}\n")
    files = [name for name in (LAST, BEST, LOG, CURVE, SAMPLE) if (path / name).exists()]
    print(f"best: {now.best:.3f} bits per byte on the held-out text, at update {now.best_updates}")
    print(f"{path}: {', '.join(files)}", flush=True)


@contextmanager
def sigterm_stops() -> Generator[None]:
    """Inside, SIGTERM raises Terminated; only a main thread may say so, and can be stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
