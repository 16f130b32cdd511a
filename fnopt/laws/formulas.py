"""Laws of what a rule documents: its decay, its scale invariance, the rule that it says it is."""

from typing import Any

import torch
from torch import Tensor

from .bits import real, require_close, run
from .case import Case
from .domain import has_own, takes
from .fields import own_fields, with_fields
from .law import BrokenLawError, law

RELATIVE = 1e-9  # of float64: 1e6 ulp, and far below what any other formula gives


@law("optimizer", "torch optimizer", values="calm", where=[has_own("lr", "weight_decay"), takes("weight_decay", 0.1)])
def law_decay_is_as_documented(thing: Any, case: Case) -> None:
    """Weight decay takes lr wd p from the result (decoupled), or adds wd p to the gradient (L2): nothing in between.

    Which of the two `decoupled_weight_decay` says, a field or an attribute of the thing; without one, either. On the
    first update, in float64, within 1e-9 of the largest entry. Exclude it for a rule that documents a third form, as a
    decay inside a trust ratio (Lamb) or a proximal one (Adan).
    """
    params, grads = case.doubled().fresh()
    lr, rate = 0.01, 0.1
    plain = with_fields(thing, lr=lr, weight_decay=0.0, maximize=False)
    decaying = with_fields(thing, lr=lr, weight_decay=rate, maximize=False)
    decoupled = own_fields(thing).get("decoupled_weight_decay", getattr(thing, "decoupled_weight_decay", None))
    for gradient in grads:
        without = _first(plain, params, gradient)
        pulled = {name: grad + rate * params[name] for name, grad in gradient.items()}
        forms = {
            True: {name: leaf - lr * rate * params[name] for name, leaf in without.items()},
            False: _first(plain, params, pulled),
        }
        wanted = forms if decoupled is None else {bool(decoupled): forms[bool(decoupled)]}
        _require_one(_first(decaying, params, gradient), params, wanted)


@law("optimizer", "transform", "torch optimizer", values="calm", where=[has_own("betas", "eps"), takes("eps", 0.0)])
def law_scale_of_gradients_does_not_matter(thing: Any, case: Case) -> None:
    """With eps = 0 and no decay, Adam's step is the same along 4 g as along g, from the first gradient on.

    For things with betas and eps of their own; exclude it for a rule that is not Adam's (RAdam, Yogi, AdaBound). In
    float64, within 1e-9 of the largest entry; no gradient is zero.
    """
    params, grads = case.doubled().fresh()
    grads = [{name: torch.where(leaf == 0, 1.0, leaf) for name, leaf in gradient.items()} for gradient in grads]
    bare = with_fields(thing, eps=0.0, weight_decay=0.0)
    louder = run(bare, params, [{name: 4 * leaf for name, leaf in gradient.items()} for gradient in grads])
    for update, ((result, _), (other, _)) in enumerate(zip(run(bare, params, grads), louder, strict=True)):
        for name, leaf in result.items():
            why = "so it is along a quarter of the gradient"
            require_close(other[name], leaf, _bound(leaf, params[name]), f"result {update} of {name!r}", why)


def law_equals_the_reference(thing: Any, case: Case, reference: Any) -> None:
    """Every update is that of the reference, another optimizer that is said to be the same rule.

    In float64, each entry within 1e-9 of the largest one of its leaf or of the change, update by update.
    """
    params, grads = case.doubled().fresh()
    pairs = zip(run(thing, params, grads), run(reference, params, grads), strict=True)
    for update, ((result, _), (other, _)) in enumerate(pairs):
        for name, leaf in other.items():
            require_close(
                result[name],
                leaf,
                _bound(leaf, params[name]),
                f"result {update} of {name!r}",
                "so it is by the reference",
            )


def _first(thing: Any, params: dict[str, Tensor], gradient: dict[str, Tensor]) -> dict[str, Tensor]:
    """Params after one update from a fresh state."""
    new, _ = next(run(thing, params, [gradient]))
    return new


def _require_one(got: dict[str, Tensor], params: dict[str, Tensor], forms: dict[bool, dict[str, Tensor]]) -> None:
    """The result is what one of the forms gives."""
    problems: list[str] = []
    for decoupled, form in forms.items():
        why = "so it is with decoupled decay" if decoupled else "so it is with wd p added to the gradient"
        try:
            for name, leaf in form.items():
                require_close(got[name], leaf, _bound(leaf, params[name]), f"{name!r} after the first update", why)
            return
        except BrokenLawError as problem:
            problems.append(str(problem))
    raise BrokenLawError("; ".join(problems))


def _bound(leaf: Tensor, before: Tensor) -> Tensor | float:
    if not leaf.numel():
        return 0.0
    return RELATIVE * torch.maximum(real(leaf).abs().max(), real(leaf - before).abs().max())
