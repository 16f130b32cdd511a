"""Run the experiments as docs/experiments.md shows them, and put what they print, and draw, into that page.

    python tests/bench/experiments.py [NAME ...]

Each block of the page between `<!-- NAME: begin -->` and `<!-- NAME: end -->` becomes the commands and their output, to
the letter; its picture goes into docs/figures, with 256 colours. Kernels are compiled, none is taken from a cache. It
takes half an hour.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGE, FIGURES = ROOT / "docs" / "experiments.md", ROOT / "docs" / "figures"
TRAIN = "fnopt train --quick --updates 200 --threads 1"
COMMANDS = {
    "compare": ["fnopt compare --threads 1"],
    "sweep": ["fnopt sweep --threads 1"],
    "profile": ["fnopt profile --threads 1"],
    "curves": [
        f"{TRAIN} --out runs/fp32 --precision fp32",
        f"{TRAIN} --out runs/fp16 --precision fp16",
        f"{TRAIN} --out runs/high-lr --precision fp32 --lr 0.05",
        "fnopt curves runs/fp32 runs/fp16 runs/high-lr",
    ],
    "plan": ["fnopt plan --threads 1"],
}
MAIN = "import sys; from fnopt.cli import main; sys.exit(main(sys.argv[1:]))"


def ran(command: str, folder: Path) -> str:
    """What the command prints, in that folder."""
    words = [sys.executable, "-c", MAIN, *shlex.split(command)[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(folder / "kernels")}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        raise SystemExit(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def block(name: str, folder: Path) -> str:
    """The commands of one experiment, and what the last one prints."""
    outputs = [ran(command, folder) for command in COMMANDS[name]]
    typed = "\n".join(f"$ {command}" for command in COMMANDS[name])
    return f"```console\n{typed}\n{outputs[-1]}\n```\ntorch {torch.__version__}, {machine()}"


def machine() -> str:
    """The processor, in words."""
    found = torch.cpu.get_capabilities()
    return f"{found['cpu_name']}, {found['num_physical_cores']} cores"


def put(name: str, text: str) -> None:
    """The block of that name in the page."""
    pattern = re.compile(rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
    page, count = pattern.subn(lambda found: f"{found[1]}{text}\n{found[2]}", PAGE.read_text())
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} blocks {name}, expected one")
    PAGE.write_text(page)


def main() -> None:
    """Run those that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {list(COMMANDS)}; none: all")
    names = parser.parse_args().names or list(COMMANDS)
    FIGURES.mkdir(exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            put(name, block(name, Path(folder)))
            with Image.open(Path(folder) / "runs" / name / f"{name}.png") as image:
                image.convert("RGB").quantize(256, kmeans=2).save(FIGURES / f"{name}.png", optimize=True)
        print(f"{name}: done", flush=True)


if __name__ == "__main__":
    main()
