"""torch.distributed.checkpoint saves and loads the optimizers of fnopt.optim, and those of torch.optim into them."""

import copy
from itertools import product

import checkpoint_clients as clients
import pytest
from distributed_cases import CLIP, KINDS, MORE_KINDS, WHOLE_KINDS, assert_same, distance
from processes import pair as pair
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

pytestmark = [
    # one process needs no group, and torch says so at each save and each load
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),
]
ALL = [*KINDS, *MORE_KINDS]
WHOLE = [*ALL, *WHOLE_KINDS]
LIBRARIES = [("fnopt", "fnopt"), ("torch", "fnopt"), ("fnopt", "torch")]
each_kind = pytest.mark.parametrize("kind", ALL)
each_kind_of_whole = pytest.mark.parametrize("kind", WHOLE)
each_way = pytest.mark.parametrize("libraries", LIBRARIES, ids="-".join)
each_form = pytest.mark.parametrize("flatten", [False, True], ids=["nested", "flat"])


@each_form
@each_way
@each_kind_of_whole
def test_resumes(kind, libraries, flatten, tmp_path):
    """A loaded run goes on as torch's would that never stopped, whichever library saved and whichever loads."""
    assert_same(clients.resumed(*libraries, kind, tmp_path, flatten), clients.straight("torch", kind))


@each_way
@each_kind_of_whole
def test_resumes_in_memory(kind, libraries):
    """Full state dicts do as well."""
    assert_same(clients.through_memory(*libraries, kind), clients.straight("torch", kind))


@each_way
@each_kind
def test_many_optimizers_are_saved_as_one(kind, libraries):
    """The states of one optimizer for each parameter are gathered under the parameters' names, and given back."""
    theirs = clients.in_one_piece_each("torch", "torch", kind)
    assert_same(clients.in_one_piece_each(*libraries, kind), theirs)


@each_form
def test_a_chain_resumes(flatten, tmp_path):
    """An adapted chain goes on as if it had not stopped."""
    ours = clients.resumed("fnopt", "fnopt", CLIP, tmp_path, flatten)
    assert_same(ours, clients.straight("fnopt", CLIP))
    theirs = clients.straight("torch", CLIP)
    assert_same(ours["params"], theirs["params"], rtol=1e-5, atol=1e-6)


def test_a_chain_resumes_in_memory():
    """Full state dicts of a chain do as well."""
    assert_same(clients.through_memory("fnopt", "fnopt", CLIP), clients.straight("fnopt", CLIP))


@each_kind_of_whole
def test_same_keys_and_values(kind):
    """The flat state dict of a run has torch's keys and torch's values."""
    flat = {}
    for library in ("fnopt", "torch"):
        model, optimizer = clients.setup(library, kind)
        clients.train(model, optimizer, range(2))
        options = StateDictOptions(flatten_optimizer_state_dict=True)
        flat[library] = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    for key in [key for key in flat["torch"] if key.endswith(".foreach")]:  # torch alone was asked for its for-loop
        assert (flat["torch"].pop(key), flat["fnopt"].pop(key)) == (False, None)
    assert_same(flat["fnopt"], flat["torch"])


@pytest.mark.parametrize("kind", [*ALL, CLIP])
def test_asking_for_a_state_changes_no_parameter(kind):
    """The state dict of a run that has not begun exists, and to make it moves nothing."""
    before, after, names = clients.untouched("fnopt", kind)
    assert_same(before, after)
    assert names == sorted(before)


def test_a_lost_state_would_be_seen(tmp_path):
    """Negative control: what a run becomes depends on the state that it loads and on its learning rate."""
    model, optimizer = clients.setup("torch", "AdamW")
    clients.train(model, optimizer, range(3))
    fresh = clients.make("torch", "AdamW", model.parameters())
    clients.train(model, fresh, range(3, 6))
    assert distance(clients.outcome(model, fresh), clients.straight("torch", "AdamW")) > 1e-3


@pytest.mark.slow
@each_form
@each_way
@each_kind
def test_shards_resume(pair, kind, libraries, flatten, tmp_path):
    """Two processes save shards and go on from them as torch's would that never stopped."""
    assert_same(pair(clients.resumed, *libraries, kind, tmp_path, flatten), pair(clients.straight, "torch", kind))


@pytest.mark.slow
@each_form
def test_shards_of_a_chain_resume(pair, flatten, tmp_path):
    """So does an adapted chain, from files and from memory."""
    straight = pair(clients.straight, "fnopt", CLIP)
    assert_same(pair(clients.resumed, "fnopt", "fnopt", CLIP, tmp_path, flatten), straight)
    assert_same(pair(clients.through_memory, "fnopt", "fnopt", CLIP), straight)


@pytest.mark.slow
@each_way
@pytest.mark.parametrize("kind", KINDS)
def test_shards_resume_in_memory(pair, kind, libraries):
    """Full state dicts of one process are dealt out to both."""
    ours = pair(clients.through_memory, *libraries, kind)
    assert_same(ours, pair(clients.straight, "torch", kind))


@pytest.mark.slow
@pytest.mark.parametrize("who", [*product(ALL, LIBRARIES), (CLIP, LIBRARIES[0])], ids=str)
def test_one_process_reads_what_two_wrote(pair, who, tmp_path):
    """Shards of two processes become the whole state of one, to the bit, and the other way round."""
    kind, (writer, reader) = who
    written = pair(clients.save, writer, kind, tmp_path / "two", False)
    assert_same(clients.loaded(reader, kind, tmp_path / "two", False), written[0])
    written = clients.save(writer, kind, tmp_path / "one", False)
    assert_same(pair(clients.loaded, reader, kind, tmp_path / "one", False), [written] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*ALL, CLIP])
def test_asking_for_shards_changes_no_parameter(pair, kind):
    """The state dict of a sharded run that has not begun exists, and to make it moves nothing."""
    for before, after, names in pair(clients.untouched, "fnopt", kind):
        assert_same(before, after)
        assert names == sorted(before)
