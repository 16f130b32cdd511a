"""Checkpoints: what is saved is what is loaded, to the bit."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from checkpoint_cases import DRAWN_DTYPES, fingerprint, flat_bytes, keys, small_state, states, trees
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import fnopt
from fnopt.checkpoint import load_checkpoint, read_info, save_checkpoint
from fnopt.checkpoint.file import read_header
from fnopt.checkpoint.migrate import MIGRATIONS, SCHEMA, migrate
from fnopt.checkpoint.names import escape, flatten, is_name
from fnopt.errors import CheckpointCorruptError, StateMismatchError
from fnopt.record import evolve
from fnopt.state import TrainState

ROOT = Path(fnopt.__file__).parents[1]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(state=states(), info=st.dictionaries(st.text(), json_values, max_size=3))
def test_load_after_save_is_identity(state, info):
    """Dtypes, shapes, strides, bits, keys and their order come back; no leaf shares memory; saving changes nothing."""
    before, random = fingerprint(state), torch.random.get_rng_state()
    versions = [leaf._version for leaf in flatten("", state).values() if leaf is not None]
    with TemporaryDirectory() as folder:
        path = save_checkpoint(Path(folder, "a.safetensors"), state, info)
        loaded = load_checkpoint(path, like=state, allow_nonfinite=True)
        found = read_info(path)
        plain = load_file(path)
    assert fingerprint(loaded) == before == fingerprint(state)
    assert versions == [leaf._version for leaf in flatten("", state).values() if leaf is not None]
    assert torch.equal(random, torch.random.get_rng_state())
    stored = {name: leaf for name, leaf in flatten("", loaded).items() if leaf is not None}
    pointers = [leaf.data_ptr() for leaf in stored.values() if leaf.numel()]
    assert len(pointers) == len(set(pointers))
    assert not any(leaf.requires_grad or leaf.is_conj() for leaf in stored.values())
    assert found["info"] == info
    assert (found["position"], found["seed"], found["updates"]) == (state.position, state.seed, int(state.updates))
    assert plain.keys() == stored.keys()
    for name, leaf in stored.items():
        assert plain[name].data_ptr() % leaf.dtype.itemsize == 0
        twin = torch.view_as_complex(plain[name]) if leaf.dtype.is_complex else plain[name]
        assert flat_bytes(twin) == flat_bytes(leaf)


def test_drawn_states_have_what_is_hard_to_save():
    """The law above is not empty: its states hold every kind of leaf that needs care."""
    seen = Counter()

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(state=states())
    def look(state):
        for leaf in flatten("", state).values():
            seen["empty dict"] += leaf is None
            if leaf is not None:
                seen.update({leaf.dtype: 1, "0-d": leaf.ndim == 0, "empty": leaf.numel() == 0})
                seen.update(
                    {"conjugate": leaf.is_conj(), "negated": leaf.is_neg(), "strided": not leaf.is_contiguous()}
                )
                seen["dense, not row-major"] += not leaf.detach().clone().is_contiguous()

    look()
    assert set(DRAWN_DTYPES) <= seen.keys()
    assert all(seen.values()), seen


@settings(max_examples=200, deadline=None)
@given(first=keys, second=keys)
def test_names_are_injective_and_plain(first, second):
    """Two keys have one name only if they are equal; a name is printable ASCII and no path part."""
    assert (escape(first) == escape(second)) == (first == second)
    assert is_name("params/" + escape(first))
    assert escape(first).isascii()
    assert escape(first).isprintable()
    assert not set(escape(first)) & set('/\\"')
    assert escape(first) not in ("", ".", "..")


@settings(max_examples=50, deadline=None)
@given(one=trees, other=trees)
def test_two_structures_never_pass_for_each_other(one, other):
    """A file loads into a state exactly if names, empty dicts, shapes and dtypes are equal."""
    small = small_state()
    mine, its = evolve(small, opt_state=one), evolve(small, opt_state=other)
    described = [
        {n: leaf if leaf is None else (leaf.shape, leaf.dtype) for n, leaf in flatten("", s).items()}
        for s in (mine, its)
    ]
    with TemporaryDirectory() as folder:
        path = save_checkpoint(Path(folder, "a"), mine)
        try:
            load_checkpoint(path, like=its, allow_nonfinite=True)
            fits = True
        except StateMismatchError:
            fits = False
    assert fits == (described[0] == described[1])


def test_load_takes_the_order_of_like_and_the_values_of_the_file(tmp_path):
    """Tensors are matched by name, never by position; `like` gives only structure and stays as it was."""
    a, b = torch.zeros(2), torch.ones(2)
    path = save_checkpoint(tmp_path / "a", TrainState.of({"a": a, "b": b}))
    like = TrainState.of({"b": torch.full((2,), 5.0), "a": torch.full((2,), 6.0)}, seed=3)
    before = fingerprint(like)
    loaded = load_checkpoint(path, like=like)
    assert list(loaded.params) == ["b", "a"]
    assert torch.equal(loaded.params["a"], a)
    assert torch.equal(loaded.params["b"], b)
    assert loaded.seed == 0
    assert fingerprint(like) == before


def test_the_default_device_decides_nothing(tmp_path):
    """Under another default device the tensors still come to the devices of `like`."""
    state = small_state()
    with torch.device("meta"):
        loaded = load_checkpoint(save_checkpoint(tmp_path / "a", state), like=state)
    assert fingerprint(loaded) == fingerprint(state)


def test_the_file_is_a_function_of_state_and_info(tmp_path):
    """Two saves of equal states are equal byte for byte: no time stamp, no address, no order of a set."""
    first = save_checkpoint(tmp_path / "a", small_state(), {"lr": 0.1})
    second = save_checkpoint(tmp_path / "b", load_checkpoint(first, like=small_state()), {"lr": 0.1})
    assert first.read_bytes() == second.read_bytes()


def test_saving_over_a_link_keeps_the_link(tmp_path):
    """The file that a link names is replaced, not the link."""
    (tmp_path / "runs").mkdir()
    link = tmp_path / "latest"
    link.symlink_to(tmp_path / "runs" / "1.safetensors")
    save_checkpoint(link, small_state())
    assert link.is_symlink()
    assert load_checkpoint(tmp_path / "runs" / "1.safetensors", like=small_state()).position == 4


def test_every_field_of_a_state_is_in_the_file():
    """A field that TrainState gains must be saved: what is not in the file, a resumed run forgets."""
    from fnopt.checkpoint.names import SCALARS, TREES

    assert {*TREES, *SCALARS} == set(TrainState.__annotations__)


@pytest.mark.parametrize("schema", range(1, SCHEMA + 1))
def test_a_released_file_loads_for_ever(schema):
    """There is a committed file of every schema, and it loads, with the values that it was made from."""
    path = Path(__file__).with_name(f"schema{schema}.safetensors")
    assert fingerprint(load_checkpoint(path, like=small_state(5))) == fingerprint(small_state())
    found = read_info(path)
    assert found["info"] == {"made": f"by schema {schema}"}
    assert found["metric"] == (None if schema == 1 else 0.5)
    assert read_header(path, verify=True)[0].schema == schema


def test_a_migration_that_forgets_a_field_is_found(monkeypatch):
    """Negative control: without its migration, the file of schema 1 does not load."""
    monkeypatch.setitem(MIGRATIONS, 1, dict)
    with pytest.raises(CheckpointCorruptError, match="document that fnopt would not write"):
        load_checkpoint(Path(__file__).with_name("schema1.safetensors"), like=small_state())


def test_migrations_are_pure_and_lead_to_the_newest():
    """There is one step from each schema to the next, and none changes the document it is given."""
    assert list(MIGRATIONS) == list(range(1, SCHEMA))
    for schema in MIGRATIONS:
        document = {"schema": schema, "seed": 7}
        assert migrate(document)["schema"] == SCHEMA
        assert document == {"schema": schema, "seed": 7}


SAVE = "import sys; sys.modules['numpy'] = None; sys.path[:0] = {paths}; from checkpoint_cases import *; "
SAVE += "from fnopt.checkpoint import *; print(save_checkpoint({path}, small_state(5), {{'by': 'A'}}))"
LOAD = SAVE.rpartition("print")[0] + "print(fingerprint(load_checkpoint({path}, like=small_state())))"


def test_one_process_saves_and_another_loads(tmp_path):
    """The file is all that is needed: a fresh process has the same bits, and neither has numpy."""
    paths, path = [str(ROOT), str(Path(__file__).parent)], str(tmp_path / "a.safetensors")
    for program in (SAVE, LOAD):
        code = program.replace("import *; from", "import small_state, fingerprint; from")
        done = subprocess.run(
            [sys.executable, "-c", code.format(paths=paths, path=repr(path))],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr(fingerprint(small_state(5)))
    assert read_info(path)["info"] == {"by": "A"}


FORBIDDEN = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}


def _code_paths(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN:
            found.append(node.module)
        elif isinstance(node, ast.Name) and node.id in ("eval", "exec", "__import__"):
            found.append(node.id)
        elif isinstance(node, ast.Attribute) and node.attr == "load" and ast.unparse(node.value) == "torch":
            found.append("torch.load")
        elif isinstance(node, ast.ImportFrom) and node.module == "torch" and "load" in {n.name for n in node.names}:
            found.append("from torch import load")
        elif isinstance(node, ast.keyword) and node.arg == "weights_only" and ast.unparse(node.value) != "True":
            found.append("weights_only")
    return found


def _safe_loads(source: str) -> int:
    """Calls of torch.load with weights_only=True, written out."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    loads = [call for call in calls if ast.unparse(call.func) == "torch.load"]
    return sum("weights_only=True" in map(ast.unparse, call.keywords) for call in loads)


def test_no_code_path_leads_out_of_a_file():
    """fnopt has no pickle, eval or exec, and one torch.load, with weights_only=True; the search would find others."""
    sources = list((ROOT / "fnopt").rglob("*.py"))
    assert sources
    found = {path.name: found for path in sources if (found := _code_paths(path.read_text()))}
    assert found == {"torch_archive.py": ["torch.load"]}
    assert _safe_loads((ROOT / "fnopt" / "checkpoint" / "torch_archive.py").read_text()) == 1
    assert len(_code_paths("import pickle\neval('1')\nexec('1')\ntorch.load(p, weights_only=False)")) == 5
    assert _code_paths("from torch import load\nf = torch.load") == ["from torch import load", "torch.load"]
    assert _safe_loads("torch.load(p)\ntorch.load(p, weights_only=safe)\nf = torch.load") == 0
