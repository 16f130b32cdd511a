"""The `fnopt` command: `train` begins a run in a folder, `resume` goes on with one, `laws` checks an optimizer;
`inspect`, `verify` and `export` are for checkpoints, `compare`, `sweep`, `profile`, `curves` and `plan` experiments.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from .. import __version__
from ..errors import FnoptError
from .config import add_flags, from_flags
from .experiments import add_commands as add_experiments
from .files import add_commands
from .folder import Folder
from .laws import add_command
from .train import work

ABOUT = """\
Train a byte-level GPT with fnopt: accumulation, clipping, mixed precision, warm-up and cosine, weight decay by label,
an average of the weights, validation by weight, checkpoints. Ctrl-C saves; `fnopt resume` then goes on, and ends with
the same bits as a run that was never stopped. `fnopt laws` checks an optimizer of yours."""


class Parser(argparse.ArgumentParser):
    """A parser that complains in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and leave."""
        self.exit(2, f"fnopt: {message}; see {self.prog} --help\n")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Say what is unknown, and which flag is like it."""
        flags = re.findall(r"--\w[\w-]*", self.format_usage())
        like = get_close_matches(unknown[0].split("=")[0], flags, 1)
        self.error(f"unrecognized arguments: {' '.join(unknown)}" + "".join(f"; did you mean {flag}?" for flag in like))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 for a broken law or checkpoint, 2 for what the user can mend, 130
    and 143 for a stopped run.
    """
    try:
        typed, unknown = make_parser().parse_known_args(argv)
        if unknown:
            typed.parser.refuse(unknown)
        return typed.work(typed)
    except SystemExit as left:  # argparse: --help, or a wrong flag
        return left.code if isinstance(left.code, int) else 1
    except FnoptError as error:
        print(f"fnopt: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a log or picture that cannot be written
        print(f"fnopt: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fnopt: stopped before anything new was saved", file=sys.stderr)
        return 130


def begin(typed: argparse.Namespace) -> int:
    """`fnopt train`: a new run."""
    return work(Folder.begin(Path(typed.out), from_flags(typed)))


def go_on(typed: argparse.Namespace) -> int:
    """`fnopt resume`: the run of a folder."""
    return work(Folder.go_on(Path(typed.run), typed.updates))


def make_parser() -> Parser:
    """The commands and their flags."""
    parser = Parser(prog="fnopt", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"fnopt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about = "train a byte-level GPT on Python's help topics, or on your own text"
    train = commands.add_parser("train", help=about, description=about, allow_abbrev=False)
    train.add_argument("--out", metavar="DIR", default="runs/demo", help="folder of the run (default: %(default)r)")
    add_flags(train)
    train.set_defaults(work=begin)
    about = "go on with a run that was stopped, or train a finished one further"
    resume = commands.add_parser("resume", help=about, description=about, allow_abbrev=False)
    resume.add_argument("run", metavar="DIR", help="folder of the run; nothing else is needed")
    text = "updates in all; the cosine of the learning rate is stretched to end there (default: as the run began)"
    resume.add_argument("--updates", metavar="N", type=int, default=None, help=text)
    resume.set_defaults(work=go_on)
    add_command(commands)
    add_commands(commands)
    add_experiments(commands)
    for command in commands.choices.values():
        command.set_defaults(parser=command)
    return parser
