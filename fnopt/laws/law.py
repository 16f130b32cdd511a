"""What a law is: a plain function with one sentence, and the domain in which it holds."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, Unpack

import attrs

from ..errors import FnoptError
from .kinds import Kind, kind_of
from .strategies import Drawn, Values

Where: TypeAlias = Callable[[Any, Drawn], str]  # why a law does not apply to a thing, so drawn; "" where it does
Body = TypeVar("Body", bound=Callable[[Any, Any], None])


class BrokenLawError(FnoptError, AssertionError):
    """A law that does not hold; the message says where, and what was expected."""


@attrs.frozen(eq=False)
class Law:
    """A law and its domain: for which kinds of things, on which values, and under which conditions it holds."""

    run: Callable[..., None]
    kinds: tuple[Kind, ...]
    values: Values
    where: tuple[Where, ...]
    others: tuple[Any, ...] = ()  # what the function takes beside the thing and the case

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.run.__name__

    @property
    def sentence(self) -> str:
        """What must hold: the first paragraph of the docstring."""
        return " ".join((self.run.__doc__ or "").split("\n\n")[0].split())

    def excuse(self, thing: Any, **drawn: Unpack[Drawn]) -> str:
        """Why the law does not apply to this thing on cases so drawn; an empty string where it does."""
        kind = kind_of(thing)
        if kind not in self.kinds:
            return f"is for {' and '.join(f'{kind}s' for kind in self.kinds)}"
        return next((excuse for where in self.where if (excuse := where(thing, drawn))), "")


LAWS: dict[str, Law] = {}


def law(*kinds: Kind, values: Values = "any", where: Sequence[Where] = ()) -> Callable[[Body], Body]:
    """Register a function as a law of all things of these kinds; the function stays as it is.

    `values` says on what numbers it holds: "any" (nan and infinities too), "finite", or "tame" (at most 100, so that
    nothing overflows). Each of `where` gives a reason why it does not apply, or "".
    """

    def register(body: Body) -> Body:
        LAWS[body.__name__] = Law(body, kinds, values, tuple(where))
        return body

    return register
