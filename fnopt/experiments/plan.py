"""`plan`: what a run is going to do, in numbers and as a picture, before it does it."""

from pathlib import Path
from typing import Any, cast

import attrs

from ..rules.describe import leaf_rules
from ..trainer import Plan
from ..types import Optimizer, Tensors
from .output import dress, picture, table


@attrs.frozen
class Group:
    """Parameters that one rule updates: how many tensors and numbers they are, and the rule in words."""

    label: str
    tensors: int
    numbers: int
    rule: str


@attrs.frozen
class Preview:
    """The plan of a run, with the learning rate of each update, and who updates what.

    rates   of each rule, by label
    marks   updates between two validations, two checkpoints, two lines
    """

    about: str
    plan: Plan
    rates: dict[str, list[float]]
    groups: list[Group]
    marks: dict[str, int]

    def __str__(self) -> str:
        marks = ", ".join(f"{name} {every}" for name, every in self.marks.items())
        rows = [[group.label, str(group.tensors), f"{group.numbers:,}"] for group in self.groups]
        return "\n".join(
            [
                self.about,
                *str(self.plan).splitlines(),
                f"{'every:':<13}{marks}",
                "",
                table(["parameters", "tensors", "numbers"], rows),
                *(f"{group.label}: {group.rule}" for group in self.groups),
            ]
        )

    def rows(self) -> list[dict[str, Any]]:
        """The plan, the groups, and the rate of each update."""
        plan = {"kind": "plan", **attrs.asdict(self.plan), "notes": list(self.plan.notes), **self.marks}
        groups = [{"kind": "group", **attrs.asdict(group)} for group in self.groups]
        rates = [{"kind": "lr", "label": label, "rates": rates} for label, rates in self.rates.items()]
        return [plan, *groups, *rates]

    def draw(self, path: Path) -> str:
        """The learning rate over the updates, with the ends of epochs; and the groups by size."""
        return picture(path, self._draw, (11, 4.2))

    def _draw(self, figure: Any) -> None:
        rate, sizes = figure.subplots(1, 2, width_ratios=(5, 3))
        same = len({tuple(rates) for rates in self.rates.values()}) == 1
        for place, (label, rates) in enumerate(self.rates.items()):
            if place == 0 or not same:
                rate.plot(range(len(rates)), rates, color=f"C{place}", lw=1.8, label="all groups" if same else label)
        epoch = self.plan.epoch or 0
        for place, end in enumerate(range(epoch, self.plan.updates + 1, epoch) if epoch else []):
            rate.axvline(end, color="#999999", lw=0.9, ls=":", label="end of an epoch" if not place else None)
        _ticks(rate, range(0, self.plan.updates + 1, self.marks.get("validation", self.plan.updates + 1)))
        dress(rate, f"learning rate of {self.plan.updates} updates", "updates", "learning rate")
        rate.legend(frameon=False, loc="upper right")
        bars = sizes.barh([group.label for group in self.groups], [group.numbers for group in self.groups], height=0.5)
        texts = [f"{group.numbers:,} in {group.tensors} tensors" for group in self.groups]
        sizes.bar_label(bars, texts, padding=4, fontsize=9)
        dress(sizes, "who is decayed", "numbers (log scale)", "")
        sizes.set_xscale("log")
        sizes.set_xlim(1, 30 * max(group.numbers for group in self.groups))
        sizes.invert_yaxis()


def _ticks(axes: Any, places: range) -> None:
    """A mark on the axis at each validation."""
    inside = list(places)[1:]
    heights = [0.02] * len(inside)
    transform = axes.get_xaxis_transform()
    axes.plot(inside, heights, "^", color="C2", ms=5, transform=transform, label="validation", clip_on=False)


def groups_of(optimizer: Optimizer[Any], params: Tensors) -> list[Group]:
    """Who updates what; what nobody does is frozen."""
    left = dict(params)
    groups: list[Group] = []
    for label, rule, names in leaf_rules(optimizer, params):
        own = [left.pop(name) for name in names]
        groups.append(Group(label or "all", len(own), sum(leaf.numel() for leaf in own), _in_words(rule)))
    if left:
        groups.append(Group("frozen", len(left), sum(leaf.numel() for leaf in left.values()), "never updated"))
    return groups


def _in_words(rule: Any) -> str:
    """The rule, with what is not its default; but the learning rate, of which a plan says more."""
    fields = attrs.fields(cast(Any, type(rule))) if attrs.has(cast(Any, type(rule))) else ()
    shown = [(field.name, getattr(rule, field.name)) for field in fields if field.name != "lr"]
    defaults = {field.name: field.default for field in fields}
    return (
        f"{type(rule).__name__}({', '.join(f'{name}={value!r}' for name, value in shown if value != defaults[name])})"
    )
