"""`fnopt inspect`, `verify` and `export`: a file is looked into, checked and handed to torch without its program."""

import math

import pytest
import torch
from checkpoint_cases import fingerprint, small_state
from cli_cases import last
from manager_cases import at, damage

from fnopt import CheckpointManager, load_checkpoint, read_info, save_checkpoint
from fnopt.checkpoint.contents import blank_state, contents_of
from fnopt.cli import main
from fnopt.cli.config import Config
from fnopt.cli.folder import BEST
from fnopt.cli.job import make_model, make_optimizer


def test_inspect_says_what_is_in_a_file(tmp_path, capsys):
    """Schema, writer, digest, position, metric, info and every tensor, with dtype, shape and size."""
    with CheckpointManager(tmp_path) as manager:
        path = manager.save(small_state(), metric=0.5, info={"lr": 0.1, "note": "x" * 1000})
    assert main(["inspect", str(path)]) == 0
    output = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert lines[0] == str(path)
    assert lines[1].startswith("schema 2, made with ")
    assert f"torch {torch.__version__}" in lines[1]
    assert lines[2] == "sha256 ok"
    assert lines[3] == "position 4, updates 3, seed 7"
    assert lines[4] == "metric 0.5, save 1 of its folder"
    assert lines[5].startswith('info {"lr": 0.1, "note": "xxx')
    assert len(lines[5]) < 450
    assert lines[6] == "tensors 9, 190 B"
    assert "params/conv.weight float32 [2, 2, 2, 2] 64 B" in lines
    assert "params/z complex64 [2] 16 B" in lines
    assert "opt_state/largest/ empty" in lines


def test_inspect_of_damaged_data_shows_what_there_is_and_fails(tmp_path, capsys):
    """Where the data are damaged the header is shown, with a warning and status 1; a damaged header is an error."""
    path = save_checkpoint(tmp_path / "a", at(3))
    damage(path)
    assert main(["inspect", str(path)]) == 1
    assert f"WRONG: {path} is damaged: its sha256" in capsys.readouterr().out
    damage(path, 12)
    assert main(["inspect", str(path)]) == 2
    assert "one with a damaged beginning" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "b")]) == 2
    assert "no checkpoint at" in capsys.readouterr().err


def test_verify_reads_every_file(tmp_path, capsys):
    """Each file is ok or why not; one that is broken makes the status 1."""
    with CheckpointManager(tmp_path) as manager:
        paths = [manager.save(at(position)) for position in (1, 2)]
    assert main(["export", str(paths[0]), str(tmp_path / "a.pt")]) == 0
    capsys.readouterr()
    assert main(["verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a.pt: ok",
        "step-0000000001.safetensors: ok",
        "step-0000000002.safetensors: ok",
        "3 of 3 files are as they were written",
    ]
    damage(paths[1])
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.index(bytes(at(1).params["w"].view(torch.uint8).tolist()))] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    assert main(["verify", str(tmp_path)]) == 1
    output = capsys.readouterr().out.splitlines()
    assert output[0].startswith("a.pt: CheckpointCorruptError: ")
    assert "Bad CRC-32" in output[0]
    assert "step-0000000002.safetensors: CheckpointCorruptError: " in output[2]
    assert output[3] == "1 of 3 files are as they were written"


@pytest.mark.parametrize("name", ["none", "empty", "file"])
def test_verify_of_nothing_is_no_success(name, tmp_path, capsys):
    """A folder without checkpoints, a missing one and a file are refused."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert main(["verify", str(tmp_path / name)]) == 2
    assert "expected a folder with checkpoints" in capsys.readouterr().err


def test_export_of_any_checkpoint_has_its_weights(tmp_path, capsys):
    """Without the program that made the file, its params and buffers are exported, and what is missing is said."""
    state = small_state()
    path = save_checkpoint(tmp_path / "a", state)
    assert main(["export", str(path), str(tmp_path / "a.pt")]) == 0
    assert "2 params at step 4; its optimizer is not: fnopt.export_torch" in capsys.readouterr().out
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert (content["optimizer"], content["step"]) == (None, 4)
    assert {
        name: torch.equal(leaf, {**state.params, **state.buffers}[name]) for name, leaf in content["model"].items()
    } == {
        "conv.weight": True,
        "z": True,
        "mask": True,
    }


def test_export_of_a_run_goes_on_in_torch(train, tmp_path, capsys):
    """A checkpoint of `fnopt train` is exported whole: torch loads module and AdamW, and fnopt reads both again."""
    assert train("run") == 0
    path, target = last(tmp_path / "run"), tmp_path / "out.pt"
    assert main(["export", str(path), str(target)]) == 0
    assert "its optimizer is not" not in capsys.readouterr().out
    content = torch.load(target, weights_only=True)
    config = Config.from_json(contents_of(path).document.info["config"])
    model = make_model(config)
    model.load_state_dict(content["model"])
    named = dict(model.named_parameters())
    groups = [
        {"params": [named[name] for name in group["param_names"]]} for group in content["optimizer"]["param_groups"]
    ]
    optimizer = torch.optim.AdamW(groups)
    optimizer.load_state_dict(content["optimizer"])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [config.weight_decay, 0.0]
    state = load_checkpoint(path, like=blank_state(contents_of(path)))
    assert all(torch.equal(named[name], leaf) for name, leaf in state.params.items())
    assert content["best_val_loss"] == read_info(path)["info"]["marks"]["best"] * math.log(2)
    assert (tmp_path / "run" / BEST).exists()
    rule = make_optimizer(config, model)
    inner = rule.optimizer.optimizer
    params = {name: leaf.detach() for name, leaf in named.items()}
    like = type(state).of(params, buffers=state.buffers, opt_state=inner.init_state(params))
    again = load_checkpoint(target, like=like)
    memory = state.opt_state["Ema"]["optimizer"]["decay"]["exp_avg"]
    assert all(torch.equal(leaf, memory[name]) for name, leaf in again.opt_state["decay"]["exp_avg"].items())


def test_a_blank_state_has_the_structure_of_the_file(tmp_path):
    """What a file holds can be loaded without knowing what made it, empty dicts and odd names included."""
    state = small_state()
    state.extra.update({"a/b": torch.ones(1), "": torch.zeros(0), "ü": torch.ones(2)})
    path = save_checkpoint(tmp_path / "a", state)
    assert fingerprint(load_checkpoint(path, like=blank_state(contents_of(path)))) == fingerprint(state)


def test_what_cannot_be_exported_is_a_sentence(tmp_path, capsys):
    """A target that is a folder, and a file that is no checkpoint."""
    path = save_checkpoint(tmp_path / "a", at(1))
    (tmp_path / "folder").mkdir()
    assert main(["export", str(path), str(tmp_path / "folder")]) == 2
    assert "this is a directory" in capsys.readouterr().err
    (tmp_path / "text").write_text("text")
    assert main(["export", str(tmp_path / "text"), str(tmp_path / "b.pt")]) == 2
    assert "is a text file, expected a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "b.pt").exists()
