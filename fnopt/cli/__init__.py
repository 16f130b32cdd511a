"""The `fnopt` command: `train` begins a run in a folder, `resume` goes on with one, `laws` checks an optimizer."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..errors import FnoptError
from .config import add_flags, from_flags
from .folder import Folder, Run
from .laws import add_command, check_laws
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 for a broken law, 2 for what the user can mend, 130 and 143 for a
    stopped run.
    """
    try:
        typed = make_parser().parse_args(argv)
        if typed.command == "laws":
            return check_laws(typed)
        return work(*begin(typed))
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


def begin(typed: argparse.Namespace) -> tuple[Folder, Run]:
    """The folder that a command line names, and where its run is."""
    if typed.command == "train":
        return Folder.begin(Path(typed.out), from_flags(typed))
    return Folder.go_on(Path(typed.run), typed.updates)


def make_parser() -> Parser:
    """The commands and their flags."""
    parser = Parser(prog="fnopt", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about = "train a byte-level GPT on Python's help topics, or on your own text"
    train = commands.add_parser("train", help=about, description=about, allow_abbrev=False)
    train.add_argument("--out", metavar="DIR", default="runs/demo", help="folder of the run (default: %(default)r)")
    add_flags(train)
    about = "go on with a run that was stopped, or train a finished one further"
    resume = commands.add_parser("resume", help=about, description=about, allow_abbrev=False)
    resume.add_argument("run", metavar="DIR", help="folder of the run; nothing else is needed")
    text = "updates in all; the cosine of the learning rate is stretched to end there (default: as the run began)"
    resume.add_argument("--updates", metavar="N", type=int, default=None, help=text)
    add_command(commands)
    return parser
