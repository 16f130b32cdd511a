"""Training in a folder by a Trainer; then the curve and a sample. Stopped at any moment, it can go on."""

import importlib.util

from ..callbacks import read_rows
from ..errors import NonFiniteError
from ..record import evolve
from ..signals import stop_on_signal
from ..state import load_into
from .folder import BEST, CURVE, LOG, SAMPLE, Folder
from .sample import generate


def work(folder: Folder) -> int:
    """The whole command; returns the exit status. A second signal ends it at once, with what was saved last."""
    trainer = folder.job.trainer
    with stop_on_signal() as stop:
        print(headline(folder), flush=True)
        try:
            trainer.train(stop)
        except NonFiniteError as error:
            raise NonFiniteError(f"the last steps were all skipped: {error.report}; take a smaller --lr") from None
        for part in (draw, sample, report):
            if not stop.requested:
                part(folder)
    if stop.requested:
        done = f"update {int(trainer.state.updates)} of {folder.job.config.updates}"
        print(f"\nsaved {folder.last} ({done}); continue with: fnopt resume {folder.path}", flush=True)
    return stop.status


def headline(folder: Folder) -> str:
    """What is going to happen, and what will be missing."""
    job, config, state = folder.job, folder.job.config, folder.job.trainer.state
    size = sum(leaf.numel() for leaf in state.params.values())
    lines = [
        f"GPT of {size:,} parameters, {config.threads} threads; "
        f"text: {len(job.data.dataset) * config.context:,} bytes to train on, "
        f"{len(job.held_out.dataset) * config.context:,} held out; in {folder.path}",
        str(job.trainer.plan()),
    ]
    if int(state.updates) >= config.updates:
        lines.append(f"nothing is left to train; fnopt resume {folder.path} --updates N trains further")
    if config.compile and int(state.updates) < config.updates:
        lines.append("the step is compiled first, which may take a minute where it never was")
    lacking = {"matplotlib": f"{CURVE} will not be drawn", "rich": "progress is plain lines"}
    missing = [what for name, what in lacking.items() if not importlib.util.find_spec(name)]
    if missing:
        lines.append(f"{' and '.join(missing)}; to have it: pip install 'fnopt[demo]'")
    return "\n".join(lines)


def draw(folder: Folder) -> None:
    """The curve, where there is matplotlib."""
    if importlib.util.find_spec("matplotlib"):
        from . import curve

        title = f"{folder.path.name}: best {folder.best()[0]:.3f} bits per byte on held-out text"
        curve.draw(read_rows(folder.path / LOG), folder.path / CURVE, title)


def sample(folder: Folder) -> None:
    """A text that the averaged weights write."""
    job, config, state = folder.job, folder.job.config, folder.job.trainer.state
    load_into(job.model, evolve(state, params=job.step.eval_params(state)))
    prompt = config.prompt.encode()
    text = generate(job.model, prompt, config.sample_bytes, temperature=config.temperature, seed=config.seed)
    (folder.path / SAMPLE).write_bytes(text)
    print(f"\n{text.decode(errors='replace')}\n")


def report(folder: Folder) -> None:
    """What was reached, and where it is."""
    best, updates = folder.best()
    files = [name for name in (folder.last.name, BEST, LOG, CURVE, SAMPLE) if (folder.path / name).exists()]
    print(f"best: {best:.3f} bits per byte on the held-out text, at update {updates}")
    print(f"{folder.path}: {', '.join(files)}", flush=True)
