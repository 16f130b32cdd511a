"""Docstrings for the reference, as a Griffe extension: Markdown of them, and signatures as Python has them.

Docstrings here are Markdown already, but for two things: examples begin with `>>>`, and a paragraph of
`name   what it is` lines is a table.
"""

import inspect
import re
from importlib import import_module
from typing import Any

from griffe import Alias, Class, Extension, Function, Module, Object, Parameter, ParameterKind, Parameters

ROW = re.compile(r"^(\S+(?: \S+)*?) {2,}(\S.*)$")


def markdown(text: str) -> str:
    """A docstring as Markdown."""
    return "\n\n".join(_paragraph(part) for part in re.split(r"\n[ \t]*\n", inspect.cleandoc(text)))


def _paragraph(part: str) -> str:
    if part.startswith(">>> "):
        return f"```python\n{part}\n```"
    if part.startswith(" "):
        return f"```text\n{inspect.cleandoc(part)}\n```"
    lines = part.split("\n")
    if not ROW.match(lines[0]) or not all(ROW.match(line) or line.startswith("   ") for line in lines):
        return part
    rows: list[list[str]] = []
    for line in lines:
        if found := ROW.match(line):
            rows.append([found[1], found[2]])
        else:
            rows[-1][1] += " " + line.strip()
    return "\n".join(["| | |", "|---|---|", *(f"| `{a}` | {b.replace('|', chr(92) + '|')} |" for a, b in rows)])


class Docstrings(Extension):
    """Mends what was read, and adds the second, public names of classes, as in `join = Join`."""

    def on_module_members(self, *, mod: Module, **_: Any) -> None:
        """Public names that a class of the module has beside its own."""
        if not any(isinstance(member, Class) for member in mod.members.values()):
            return
        for name, live in vars(import_module(mod.path)).items():
            if isinstance(live, type) and live.__module__ == mod.path and live.__name__ != name:
                mod.set_member(name, Alias(name, target=mod.members[live.__name__], parent=mod))

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Its docstring; of a record, its parameters too."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
        if isinstance(obj, Class) and "__init__" not in obj.members:
            live = getattr(import_module(obj.module.path), obj.name, None)
            if live is not None and hasattr(live, "__attrs_attrs__"):
                obj.set_member("__init__", _init(live, obj))


def _init(live: Any, obj: Class) -> Function:
    kinds = {kind.name: kind.name for kind in inspect._ParameterKind}
    names = {
        "POSITIONAL_ONLY": "positional_only",
        "POSITIONAL_OR_KEYWORD": "positional_or_keyword",
        "VAR_POSITIONAL": "var_positional",
        "KEYWORD_ONLY": "keyword_only",
        "VAR_KEYWORD": "var_keyword",
    }
    fields = {name: member for name, member in obj.members.items() if member.is_attribute}
    found = [Parameter("self", kind=ParameterKind.positional_or_keyword)]
    for name, parameter in inspect.signature(live).parameters.items():
        default = None if parameter.default is inspect.Parameter.empty else _default(parameter.default)
        annotation = getattr(fields.get(name), "annotation", None)
        kind = ParameterKind[names[kinds[parameter.kind.name]]]
        found.append(Parameter(name, annotation=annotation, default=default, kind=kind))
    return Function("__init__", parameters=Parameters(*found), parent=obj)


def _default(value: Any) -> str:
    return "..." if type(value).__name__ in {"Factory", "_Nothing"} or value.__repr__().startswith("<") else repr(value)
