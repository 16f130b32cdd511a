"""Training in a folder: step, log, validate, save; then the curve and a sample. Stopped at any moment, it can go on."""

import importlib.util
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from ..errors import NonFiniteError
from ..loop import run
from ..record import evolve
from ..signals import Stop, stop_on_signal
from ..state import load_into
from .folder import BEST, CURVE, LAST, LOG, SAMPLE, Folder, Run
from .log import read_rows
from .progress import Progress, progress
from .sample import generate

T = TypeVar("T")


class Stopped(KeyboardInterrupt):
    """A signal came, and the run is between two steps, or in something that a resumed run does again."""


def train(folder: Folder, now: Run, shown: Progress, stop: Stop) -> Iterator[Run]:
    """Train to the end and hand over the run after every whole step; it may be stopped anywhere in between."""
    config, log, began = folder.job.config, folder.log, time.perf_counter()
    held_out = folder.job.held_out
    for state, metrics in run(folder.job.step, now.state, folder.job.data, config.updates):
        log.update(state, metrics, time.perf_counter() - began)
        now = evolve(now, state=state)
        if state.position % config.eval_every == 0:
            now = folder.validate(now, until(stop, held_out))
        if state.position % config.log_every == 0 or now.validated == state.position:
            shown.show(log.flush())
        if state.position % config.save_every == 0:
            folder.save(now)
        yield now
        began = time.perf_counter()
    if now.validated < now.state.position:
        now = folder.validate(now, until(stop, held_out))
    shown.show(log.flush())
    folder.save(now)
    yield now


def until(stop: Stop, items: Iterable[T]) -> Iterator[T]:
    """The items, and Stopped in the place of the next one if a signal has come."""
    for item in items:
        check(stop)
        yield item


def check(stop: Stop) -> None:
    """Stopped, if a signal has come."""
    if stop.requested:
        raise Stopped


def work(folder: Folder, now: Run) -> int:
    """The whole command from `now` on; returns the exit status."""
    print(headline(folder, now), flush=True)
    with stop_on_signal() as stop:
        try:
            with progress(*extent(folder, now)) as shown:
                for latest in train(folder, now, shown, stop):
                    now = latest
                    check(stop)
            finish(folder, now, stop)
        except KeyboardInterrupt as interrupt:
            if stop.requested and not isinstance(interrupt, Stopped):
                raise  # the second signal: at once
            folder.save(now)
            done = f"update {int(now.state.updates)} of {folder.job.config.updates}"
            print(f"\nsaved {folder.path / LAST} ({done}); continue with: fnopt resume {folder.path}", flush=True)
            return stop.status or 130
        except NonFiniteError as error:
            raise NonFiniteError(f"the last steps were all skipped: {error.report}; take a smaller --lr") from None
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


def finish(folder: Folder, now: Run, stop: Stop) -> None:
    """Draw the curve, write a sample, say what was reached and where it is."""
    job, path, config = folder.job, folder.path, folder.job.config
    check(stop)
    if importlib.util.find_spec("matplotlib"):
        from .curve import draw

        draw(read_rows(path / LOG), path / CURVE, f"{path.name}: best {now.best:.3f} bits per byte on held-out text")
    load_into(job.model, job.averaged(now.state))
    prompt = config.prompt.encode()
    check(stop)
    text = generate(job.model, prompt, config.sample_bytes, temperature=config.temperature, seed=config.seed)
    (path / SAMPLE).write_bytes(text)
    print(f"\n{text.decode(errors='replace')}\n")
    files = [name for name in (LAST, BEST, LOG, CURVE, SAMPLE) if (path / name).exists()]
    print(f"best: {now.best:.3f} bits per byte on the held-out text, at update {now.best_updates}")
    print(f"{path}: {', '.join(files)}", flush=True)
