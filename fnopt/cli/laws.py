"""`fnopt laws my_module:MyOptimizer`: every law that applies, as a table."""

import argparse
import ast
import importlib
import sys
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import FnoptError, UsageError

ABOUT = """\
Try every law of optimizer math that applies to something of yours, on drawn data. It is written as module:expression:
an optimizer, transform or schedule of fnopt's interface, a class of torch.optim, or, with --model and --batch, a
GradFn or a step. A class is made without arguments. Exit status 1 if a law is broken; its smallest case is printed."""


def add_command(commands: Any) -> None:
    """The command and its flags."""
    about = "try the laws of optimizer math on an optimizer of yours"
    parser = commands.add_parser("laws", help=about, description=ABOUT, allow_abbrev=False)
    parser.add_argument("thing", metavar="MODULE:EXPRESSION", help='such as "my_module:MyOptimizer(0.1)"')
    parser.add_argument("--reference", metavar="MODULE:EXPRESSION", help="an optimizer that it must agree with")
    parser.add_argument("--model", metavar="MODULE:EXPRESSION", help="the module (or params) of a GradFn or step")
    parser.add_argument("--batch", metavar="MODULE:EXPRESSION", help="a batch that it takes")
    parser.add_argument("--names", metavar="NAME", nargs="+", help="names of the params to draw (default: any)")
    parser.add_argument("--exclude", metavar="LAW", nargs="+", default=[], help="laws to leave out")
    parser.add_argument("--profile", default="ci", help="ci: the same 50 cases every time; deep: 2,000 (default: ci)")
    parser.add_argument("--examples", metavar="N", type=int, help="another number of cases of each law")
    parser.set_defaults(work=check_laws)


def check_laws(typed: argparse.Namespace) -> int:
    """Print the table; 0 if all laws hold, 1 if one is broken."""
    try:
        from ..laws.check import find
    except ImportError as error:
        raise UsageError(str(error)) from error
    options: dict[str, Any] = {"exclude": typed.exclude, "profile": typed.profile, "max_examples": typed.examples}
    options |= {name: evaluated(text) for name in ("model", "batch") if (text := getattr(typed, name))}
    options |= {"names": typed.names} if typed.names else {}
    options |= {"reference": _instance(typed.reference)} if typed.reference else {}
    report = find(_instance(typed.thing), **options)
    print(report)
    return 1 if report.broken else 0


def evaluated(text: str) -> Any:
    """What `module:expression` stands for; the module may lie in the current folder.

    >>> evaluated("math:floor(pi)")
    3

    Raises UsageError where there is no such module, or where the expression fails.
    """
    module, colon, expression = text.partition(":")
    if not colon or not expression:
        raise UsageError(f"laws: got {text!r}, expected module:expression, such as my_module:MyOptimizer")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
        return _value(ast.parse(expression, mode="eval").body, vars(found))
    except FnoptError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise UsageError(f"laws: {text!r} raises {type(error).__name__}: {error}") from error


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """What an expression of names, attributes, calls and literals stands for; nothing else is run."""
    match node:
        case ast.Name():
            if node.id not in names:
                raise NameError(f"name {node.id!r} is not defined")
            return names[node.id]
        case ast.Attribute():
            return getattr(_value(node.value, names), node.attr)
        case ast.Call():
            named = {word.arg: _value(word.value, names) for word in node.keywords if word.arg}
            return _value(node.func, names)(*[_value(part, names) for part in node.args], **named)
        case ast.Tuple() | ast.List():
            parts = [_value(part, names) for part in node.elts]
            return tuple(parts) if isinstance(node, ast.Tuple) else parts
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return {_value(key, names): _value(value, names) for key, value in pairs if key}
        case _:
            return ast.literal_eval(node)


def _instance(text: str) -> Any:
    """The thing; a class of anything but torch.optim is made."""
    thing = evaluated(text)
    if not isinstance(thing, type) or issubclass(thing, torch.optim.Optimizer):
        return thing
    try:
        return thing()
    except TypeError as error:
        raise UsageError(f"laws: {error}; write {text!r} with its arguments: '{text}(…)'") from error
