"""What README says to type, taken out of README, and somebody in a fresh clone who types it."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST = "import torch, fnopt\n"  # how README's first block begins
SEEDED = "torch.manual_seed(0)\n"
POISON = '\ndataset.tensors[0][77, 3] = float("nan")\n'
LOG_OF_ZERO = "-(model(x) * 1e4).softmax(-1).log()[range(len(y)), y].sum()"


def block(language, holds):
    """The one block of README with this text."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if holds in text]
    assert len(found) == 1, f"{holds!r} is in {len(found)} blocks of README"
    return found[0]


def changed(text, old, new):
    """The text with its one `old` replaced: if README no longer has it, the test must say so."""
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    return text.replace(old, new)


def composed(poison=POISON, loss=None, patience=", patience=1"):
    """README's first block, with what makes its loss nan."""
    text = changed(block("python", "fnopt.make_step(fnopt.accumulate"), FIRST, FIRST + SEEDED)
    if loss:
        text = changed(text, 'F.cross_entropy(model(x), y, reduction="sum")', loss)
    text = changed(text, "\n\ndef loss", poison + "\ndef loss")
    return changed(text, "updates=100", "updates=100" + patience)


def trainer(patience):
    """README's Trainer on the poisoned dataset of the first block."""
    head = composed().split("adamw = ")[0]
    return head + changed(block("python", "fnopt.Trainer("), "log_interval=4", f"log_interval=4{patience}")


def drop_in(was):
    """README's own loop for some updates, with fnopt's optimizer or, as its comment says, with what `was` there."""
    text = block("python", "from fnopt import optim ")
    ours, theirs = re.match(r"(\S.*\S) +# was: (.+)", text).groups()
    text = changed(text, ours, theirs) if was else text
    made, loop = text.split("optimizer = ")
    first, *rest = f"optimizer = {loop}".splitlines()
    loop = "\n".join(["for _ in range(20):", "    optimizer.zero_grad()", *(f"    {line}" for line in rest)])
    model = (
        "import torch\nfrom torch import nn\n" + SEEDED + "model = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 3))"
    )
    save = "torch.save([type(optimizer).__module__, *model.parameters()], 'end.pt')"
    return "\n".join([model, made, first, loop, save])


def end(folder):
    """Whose optimizer the loop had, and the weights that it ended at."""
    module, *weights = torch.load(folder / "end.pt")
    return module, torch.cat([weight.detach().flatten() for weight in weights])


def rule(old="", new=""):
    """README's own rule as a module of its own, with a mistake in it."""
    text = "import fnopt\n\n\n" + block("python", "class SignSGD").split("optimizer = ")[0]
    return changed(text, old, new) if old else text


class Newcomer:
    """Somebody in a fresh clone, who types."""

    def __init__(self, folder):
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)
        hidden = ("PYTHON", "VIRTUAL_ENV", "COVERAGE", "PYTEST")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}

    def types(self, line, status=0):
        """What a line at the shell prints; it must end with this status."""
        line = f". .venv/bin/activate\n{line}" if (self.folder / ".venv").exists() else line
        done = subprocess.run(
            ["bash", "-ec", line],
            check=False,
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == status, f"{line} ended with {done.returncode}:\n{done.stdout[-3000:]}"
        return done.stdout

    def stops(self, line, at):
        """The same, with Ctrl-C when a printed line begins so."""
        command = [self.folder / ".venv/bin" / line.split()[0], *line.split()[1:]]
        with subprocess.Popen(command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, text=True) as process:
            for printed in process.stdout:
                if printed.startswith(at):
                    process.send_signal(signal.SIGINT)
                    break
            return process.stdout.read(), process.wait()
