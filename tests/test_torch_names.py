"""torch's private names that fnopt/_torch.py relies on are there, and behave as it relies on.

A failure here is the place to begin with after an upgrade of torch: the message names what is missing.
"""

import ast
import importlib
from pathlib import Path

import pytest
import torch

from fnopt import _torch, record

NAMES = {
    "torch.utils._pytree": ["register_pytree_node", "tree_map", "tree_leaves", "tree_flatten", "tree_unflatten"],
    "torch._C._functorch": ["maybe_current_level"],
    "torch": ["_disable_dynamo", "_foreach_copy_"],
    "torch._C": ["_disabled_torch_function_impl", "_len_torch_dispatch_stack"],
    "torch.Tensor": ["_make_wrapper_subclass", "_version"],
    "torch.optim.optimizer": ["_get_capturable_supported_devices"],
    "torch.UntypedStorage": ["_cdata"],
    "torch.linalg": ["vector_norm"],
    "torch.fx.experimental.proxy_tensor": ["make_fx"],
    "torch.fx.experimental.symbolic_shapes": ["ShapeEnv"],
    "torch._subclasses": ["FakeTensorMode"],
    "torch._guards": ["TracingContext", "tracing"],
    "torch._functorch.compile_utils": ["fx_graph_cse"],
    "torch._inductor": ["compile"],
    "torch._inductor.config": ["patch"],
}
ATTRIBUTES = {"torch.Tensor._version", "torch.UntypedStorage._cdata"}  # of instances; all others are called


def attribute(path):
    """The thing at a dotted path; a failed test that names the part that is missing."""
    thing, walked = torch, "torch"
    for part in path.split(".")[1:]:
        walked += f".{part}"
        if not hasattr(thing, part):
            try:
                thing = importlib.import_module(walked)
            except ImportError:
                pytest.fail(f"torch {torch.__version__} has no {walked}, which fnopt/_torch.py uses (as {path})")
        else:
            thing = getattr(thing, part)
    return thing


@pytest.mark.parametrize("path", [f"{module}.{name}" for module, names in NAMES.items() for name in names])
def test_the_name_exists(path):
    """The name is there; a function can be called."""
    assert callable(attribute(path)) == (path not in ATTRIBUTES), f"torch {torch.__version__}: {path}"


@pytest.mark.parametrize("kind", ["Adam", "SGD", "RMSprop", "Adagrad", "Adafactor", "Muon"])
def test_the_method_that_begins_a_state_exists(kind):
    """Each class of torch that fnopt.optim derives from has `_init_group`, which takes a group and lists."""
    assert callable(getattr(getattr(torch.optim, kind), "_init_group", None)), f"torch {torch.__version__}: {kind}"


def test_a_missing_name_is_named():
    """Negative control: a name that torch lacks fails with its path."""
    with pytest.raises(pytest.fail.Exception, match=r"has no torch\.utils\._pytreee, which fnopt/_torch\.py uses"):
        attribute("torch.utils._pytreee.tree_map")


def dotted(node):
    """`a.b.c` of an attribute access in a syntax tree, with torch's full path; None for anything else."""
    if isinstance(node, ast.Name):
        return "torch.utils._pytree" if node.id == "_pytree" else node.id
    if isinstance(node, ast.Attribute) and (inner := dotted(node.value)):
        return f"{inner}.{node.attr}"
    return None


def torch_paths(file):
    """The dotted paths into torch that a file reads or imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute):
            yield dotted(node) or ""
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def is_private(path):
    parts = path.split(".")
    return parts[0] == "torch" and any(part[0] == "_" and part[:2] != "__" for part in parts[1:])


HERE = Path(_torch.__file__)


def test_every_private_name_is_listed():
    """What fnopt/_torch.py takes from torch's private modules is what is tested here, name by name."""
    read = {path for path in torch_paths(HERE) if is_private(path)}
    ends = {path for path in read if not any(other.startswith(f"{path}.") for other in read)}
    listed = {f"{module}.{name}" for module, names in NAMES.items() for name in names}
    assert ends == {path for path in listed if is_private(path)} - ATTRIBUTES


def test_no_other_file_touches_private_names():
    """Only fnopt/_torch.py imports or reads a name of torch that begins with an underscore."""
    others = [file for file in HERE.parent.rglob("*.py") if file != HERE]
    assert len(others) > 10
    assert {file.name: path for file in others for path in torch_paths(file) if is_private(path)} == {}


@record
class Point:
    x: float
    y: torch.Tensor
    name: str = "p"


def test_pytree_knows_what_fnopt_registers():
    """A registered class is a node: its children are mapped, its context is kept and compared."""
    point = Point(1.0, torch.tensor(2.0))
    assert _torch.tree_leaves({"a": [point, 3]}) == [1.0, torch.tensor(2.0), 3]
    doubled = _torch.tree_map(lambda leaf: leaf * 2, point)
    assert (doubled.x, float(doubled.y), doubled.name) == (2.0, 4.0, "p")
    summed = _torch.tree_map(lambda a, b: a + b, (point,), (doubled,))[0]
    assert (summed.x, float(summed.y)) == (3.0, 6.0)
    leaves, structure = _torch.tree_flatten(point)
    assert structure == _torch.tree_flatten(doubled)[1]
    assert structure != _torch.tree_flatten(Point(1.0, torch.tensor(2.0), "q"))[1]
    assert _torch.tree_unflatten(leaves, structure) == point


def test_pytree_orders_dicts_by_insertion():
    """Leaves of a dict come in the order of its keys, and two orders are two structures, as the caches rely on."""
    assert _torch.tree_leaves({"b": 1, "a": 2}) == [1, 2]
    assert _torch.tree_flatten({"b": 1, "a": 2})[1] == _torch.tree_flatten({"b": 3, "a": 4})[1]


def test_functorch_sees_a_registered_class():
    """torch.func flattens with the same pytree: a record goes into grad, and one comes out."""
    point = Point(torch.tensor(2.0), torch.tensor(3.0))
    assert torch.func.grad(lambda point: point.x * point.y)(point) == Point(point.y, point.x)


def test_version_counts_writes():
    """A tensor's version grows with each write to its memory, also through a view; an inference tensor has none."""
    x = torch.zeros(3)
    before = _torch.version(x)
    assert _torch.version(x + 1.0) == before
    x[:2].add_(1.0)
    assert _torch.version(x) == before + 1
    with torch.inference_mode():
        assert _torch.version(torch.zeros(3)) == 0


def test_maybe_current_level_says_whether_a_transform_runs():
    """inside_transform is True within grad, vmap, vjp and nests of them, and False outside, also after an error."""
    seen = []

    def look(x):
        seen.append(_torch.inside_transform())
        return (x * x).sum()

    x = torch.ones(2)
    torch.func.grad(look)(x)
    torch.vmap(look)(torch.ones(3, 2))
    torch.func.vjp(look, x)
    torch.vmap(torch.func.grad(look))(torch.ones(3, 2))
    assert seen == [True] * 4
    with pytest.raises(ZeroDivisionError):
        torch.func.grad(lambda x: 1 / 0)(x)
    assert not _torch.inside_transform()
    with torch.enable_grad():
        look(x.clone().requires_grad_()).backward()
    assert seen[-1] is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.bfloat16])
def test_vector_norm_computes_in_the_dtype_asked_for(dtype):
    """vector_norm is the Euclidean norm of all entries, 0-d and real, computed in the given dtype; 0 of nothing."""
    x = torch.full((3, 4), 2.0, dtype=dtype)
    norm = _torch.vector_norm(x, torch.float32 if dtype == torch.bfloat16 else None)
    assert (norm.ndim, norm.dtype) == (0, {torch.float64: torch.float64}.get(dtype, torch.float32))
    assert float(norm) == pytest.approx(48.0**0.5, rel=1e-6)
    assert float(_torch.vector_norm(torch.ones(0, dtype=dtype))) == 0.0


def test_memory_of_tells_views_from_copies():
    """A view has the memory of its base, a copy has not; of real tensors and of those in a trace, empty ones too."""
    x, empty = torch.zeros(4), torch.zeros(0)
    assert _torch.memory_of(x) == _torch.memory_of(x[2:].view(1, 2)) != _torch.memory_of(x.clone())
    assert _torch.memory_of(empty) != _torch.memory_of(empty.clone())
    seen = []

    def look(x):
        seen.append((_torch.memory_of(x) == _torch.memory_of(x[1:]), _torch.memory_of(x) == _torch.memory_of(x + 1)))
        return [x]

    _torch.trace(look, [x])
    assert seen == [(True, False)]


def test_trace_runs_python_once_and_keeps_the_operations():
    """The graph of a function has its operations, and an attribute for a tensor that it closes over."""
    outside = torch.tensor([1.0, 2.0])
    graph, fakes = _torch.trace(lambda x: [x.sin() * outside], [torch.zeros(2)])
    assert [node.op for node in graph.graph.nodes].count("get_attr") == 1
    assert fakes[0].shape == (2,)
    assert torch.equal(graph(torch.ones(2))[0], torch.ones(2).sin() * outside)
