"""Training in a folder: step, log, validate, save; then the curve and a sample. Stopped at any moment, it can go on."""

import importlib.util
import math
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TypeVar

from ..callbacks import Progress, Reporter, View, read_rows
from ..errors import NonFiniteError
from ..loop import run
from ..record import evolve
from ..signals import Stop, stop_on_signal
from ..state import TrainState, load_into
from ..types import Metrics
from .folder import BEST, CURVE, LAST, LOG, SAMPLE, Folder, Run
from .sample import generate

T = TypeVar("T")
LOGGED = ("loss", "lr", "grad_norm", "clip_coef", "loss_scale", "skipped", "weight")


class Stopped(KeyboardInterrupt):
    """A signal came, and the run is between two steps, or in something that a resumed run does again."""


def train(folder: Folder, now: Run, shown: Progress, stop: Stop) -> Iterator[Run]:
    """Train to the end and hand over the run after every whole step; it may be stopped anywhere in between."""
    config, told = folder.job.config, (folder.log, shown)
    for state, metrics in run(folder.job.step, now.state, folder.job.data, config.updates):
        now, view = evolve(now, state=state), view_of(folder, state, figures(metrics))
        for callback in told:
            callback.on_update(view)
        if state.position % config.eval_every == 0:
            now = validate(folder, now, told, stop)
        if state.position % config.save_every == 0:
            folder.save(now)
            for callback in told:
                callback.on_save(view)
        yield now
    if now.validated < now.state.position:
        now = validate(folder, now, told, stop)
    folder.save(now)
    yield now


def validate(folder: Folder, now: Run, told: Iterable[Reporter], stop: Stop) -> Run:
    """Measure the averaged weights, say so, and keep them if they are the best so far."""
    bits = folder.job.bits_per_byte(now.state, until(stop, folder.job.held_out))
    view = evolve(view_of(folder, now.state, {}), validation={"bits_per_byte": bits})
    for callback in told:
        callback.on_validate(view)
    return folder.validate(now, bits)


def view_of(folder: Folder, state: TrainState, metrics: Metrics) -> View:
    """What is shown of a run."""
    return View(state, metrics, epoch=state.position // len(folder.job.data), total=folder.job.config.updates)


def figures(metrics: Metrics) -> Metrics:
    """What is logged of a step; of the loss, bits beside nats."""
    return {**{name: metrics[name] for name in LOGGED}, "bits_per_byte": metrics["loss"] / math.log(2)}


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
            with closing(progress(folder)) as shown:
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


def progress(folder: Folder) -> Progress:
    """What shows how this run goes."""
    return Progress(unit="tokens", figures=("loss", "bits_per_byte", "lr"), every=folder.job.config.log_every)


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
