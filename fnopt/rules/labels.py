"""Labels: which parameter belongs to which group, resolved once from rules."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeAlias, cast

from torch import Tensor, nn

from ..errors import StructureError, UsageError
from ..types import Tensors

Rule: TypeAlias = str | int | type[nn.Module] | Callable[[str, Tensor], bool]


def label(model: nn.Module | Tensors, rules: Mapping[Rule, str] | Iterable[tuple[Rule, str]]) -> dict[str, str]:
    """Give each parameter that requires grad the label of the first rule that matches it.

    A rule is a name glob (`"blocks.*.weight"`), a number of dimensions (`1`), a module type (`nn.Embedding`: the
    parameters that such a module holds itself) or a predicate `(name, tensor) -> bool`. `model` may be a dict of
    params; module types then match nothing. A tied parameter appears once; a module type matches it through any owner.

    >>> label(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), {nn.LayerNorm: "norm", "*.bias": "bias", "*": "rest"})
    {'0.weight': 'rest', '0.bias': 'bias', '1.weight': 'norm', '1.bias': 'norm'}

    Raises StructureError for a parameter that no rule matches, and for a rule that is the first match of no parameter.
    """
    pairs = list(cast(Mapping[Rule, str], rules).items()) if isinstance(rules, Mapping) else list(rules)
    owners, used = _owners(model), set[int]()
    labels: dict[str, str] = {}
    for name, param in _params(model).items():
        for place, (rule, tag) in enumerate(pairs):
            if _matches(rule, name, param, owners.get(name, [])):
                labels[name] = tag
                used.add(place)
                break
        else:
            raise StructureError(f'label: no rule matches {name!r}; end with ("*", …) to catch the rest')
    idle = [rule for place, (rule, _) in enumerate(pairs) if place not in used]
    if idle:
        raise StructureError(
            f"label: these rules are the first match of no parameter: {idle}; names are {list(labels)[:5]}…, "
            "and the first rule that matches wins"
        )
    return labels


def decay_labels(model: nn.Module | Tensors, *, decay_embeddings: bool = True) -> dict[str, str]:
    """The usual rule: weights of matrices and convolutions "decay", all else "no_decay".

    No decay for: fewer than 2 dimensions, the word `bias` in the last part of a name (`bias`, `qkv_bias`, `bias_k`),
    any parameter of a normalization layer (torch's, or a class with "norm" in its name), and, if not
    `decay_embeddings`, of an embedding. Each parameter appears once; a tied one takes the careful label if any of its
    owners asks for it.

    >>> decay_labels(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
    {'0.weight': 'decay', '0.bias': 'no_decay', '1.weight': 'no_decay', '1.bias': 'no_decay'}
    """
    owners = _owners(model)

    def exempt(name: str, param: Tensor) -> bool:
        kinds = owners.get(name, [])
        return (
            param.ndim < 2
            or "bias" in name.rpartition(".")[2].split("_")
            or any("norm" in kind.__name__.lower() for kind in kinds)
            or (not decay_embeddings and any(issubclass(kind, nn.Embedding | nn.EmbeddingBag) for kind in kinds))
        )

    return {name: "no_decay" if exempt(name, param) else "decay" for name, param in _params(model).items()}


def _params(model: nn.Module | Tensors) -> Mapping[str, Tensor]:
    if isinstance(model, nn.Module):
        return {name: param for name, param in model.named_parameters() if param.requires_grad}
    return model


def _owners(model: nn.Module | Tensors) -> dict[str, list[type[nn.Module]]]:
    """Canonical parameter name -> the types of all modules that hold that very parameter."""
    if not isinstance(model, nn.Module):
        return {}
    canonical = {id(param): name for name, param in model.named_parameters()}
    owners: dict[str, list[type[nn.Module]]] = {}
    for module in model.modules():
        for param in module.parameters(recurse=False):
            owners.setdefault(canonical[id(param)], []).append(type(module))
    return owners


def _matches(rule: Rule, name: str, param: Tensor, owners: list[type[nn.Module]]) -> bool:
    if isinstance(rule, str):
        return fnmatchcase(name, rule)
    if isinstance(rule, int):
        return param.ndim == rule
    if isinstance(rule, type):
        return any(issubclass(owner, rule) for owner in owners)
    if not callable(cast(object, rule)):
        raise UsageError(f"label: got the rule {rule!r}, expected a name glob, an int, a module type or a predicate")
    return rule(name, param)
