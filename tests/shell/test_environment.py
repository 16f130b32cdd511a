"""What the bits of a run depend on beside its state is written down, compared on resume, and refused where asked."""

import pytest
import torch
from checkpoint_cases import fingerprint, resealed, small_state

import fnopt
from fnopt.errors import CheckpointWarning, StateMismatchError

ELSEWHERE = {
    "torch": ("2.12.0", f"torch '2.12.0', here '{torch.__version__}'"),
    "fnopt": ("9.9", "fnopt '9.9', here "),
    "threads": (64, f"threads 64, here {torch.get_num_threads()}"),
    "device": ("NVIDIA H100", "device 'NVIDIA H100', here 'cpu'"),
    "cpu": ("none", "cpu 'none', here "),
    "world_size": (8, "world_size 8, here 1"),
}


def saved(path, **changes):
    """A checkpoint as if another environment had written it."""
    fnopt.save_checkpoint(path, small_state())

    def change(document, _):
        document["environment"] |= changes

    path.write_bytes(resealed(path.read_bytes(), change))
    return path


@pytest.mark.parametrize("name", ELSEWHERE)
def test_another_environment_is_told_on_resume_and_refused_if_exact(tmp_path, name):
    """Each thing that decides bits is compared: a warning that names it, an error with exact=True."""
    value, message = ELSEWHERE[name]
    path = saved(tmp_path / "step-0000000003.safetensors", **{name: value})
    with fnopt.CheckpointManager(tmp_path) as manager:
        with pytest.warns(
            CheckpointWarning, match=r"from another environment: .*; the run goes on, not to the bit"
        ) as told:
            state = manager.restore(small_state(5))
        assert message in str(told[0].message)
        assert fingerprint(state) == fingerprint(small_state())
        with pytest.raises(StateMismatchError, match="other bits") as error:
            manager.restore(small_state(5), exact=True)
        assert message in str(error.value)
        assert error.value.item == "environment"
    with pytest.raises(StateMismatchError, match="pass exact=False"):
        fnopt.load_checkpoint(path, small_state(5), exact=True)
    assert fingerprint(fnopt.load_checkpoint(path, small_state(5))) == fingerprint(small_state())


def test_the_same_environment_is_exact(tmp_path):
    """No warning and no error here; another Python is none, and what an old file does not say is not compared."""
    path = saved(tmp_path / "step-0000000003.safetensors", python="3.99")
    assert fingerprint(fnopt.load_checkpoint(path, small_state(5), exact=True)) == fingerprint(small_state())

    def older(document, _):
        document["environment"] = {"fnopt": document["environment"]["fnopt"]}

    path.write_bytes(resealed(path.read_bytes(), older))
    with fnopt.CheckpointManager(tmp_path) as manager:
        assert fingerprint(manager.restore(small_state(5), exact=True)) == fingerprint(small_state())


def test_threads_are_those_of_the_process(tmp_path):
    """The control: a file of this very environment is another one's as soon as torch has another number of threads."""
    path = fnopt.save_checkpoint(tmp_path / "a.safetensors", small_state())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        with pytest.raises(StateMismatchError, match=f"threads {before}, here {before + 1}"):
            fnopt.load_checkpoint(path, small_state(), exact=True)
    finally:
        torch.set_num_threads(before)


def test_values_of_any_kind_and_length_make_a_short_message(tmp_path):
    """A hostile environment is quoted in part."""
    path = saved(tmp_path / "a.safetensors", torch="x" * 10_000, threads=[["\n"]])
    with pytest.raises(StateMismatchError) as error:
        fnopt.load_checkpoint(path, small_state(), exact=True)
    assert len(str(error.value)) < 500 + len(str(path))
    assert "\n" not in str(error.value)


def test_a_torch_layout_cannot_be_exact(tmp_path):
    """A .pt does not say what wrote it."""
    model = torch.nn.Linear(2, 1)
    step = fnopt.make_step(fnopt.value_and_grad(model, lambda m, x: (m(x).sum(), len(x))), fnopt.AdamW(0.1))
    path = fnopt.export_torch(tmp_path / "a.pt", step.init_state(model), model=model, optimizer=step.optimizer)
    with pytest.raises(StateMismatchError, match="does not say what wrote it"):
        fnopt.load_checkpoint(path, step.init_state(model), exact=True)
