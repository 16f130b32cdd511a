"""The parts of the command by themselves: text, model, sample, config, folder."""

import json

import pytest
import torch

from fnopt.callbacks import read_rows
from fnopt.cli.config import Config
from fnopt.cli.folder import LOG, Folder
from fnopt.cli.job import make_job
from fnopt.cli.sample import generate
from fnopt.cli.text import HELD_OUT, Windows, read_text, split


def test_text_of_folders_is_their_visible_text_files_in_order(tmp_path):
    """A folder gives its files by name: no hidden ones, no binary ones; Python's help topics are the default."""
    for name, data in {
        "b.md": b"two",
        "a/z.txt": "ü".encode(),
        ".git/x": b"no",
        "c.bin": b"\xff\xfe",
        "d": b"a\0b",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert read_text([str(tmp_path)]) == "ü\ntwo".encode()
    assert read_text([str(tmp_path / "c.bin"), str(tmp_path / "b.md")]) == b"\xff\xfe\ntwo"
    assert len(read_text([])) > 300_000


def test_windows_predict_every_byte_once_and_the_held_out_ones_never():
    """Targets follow their inputs; together they are the text after its first byte; the parts do not overlap."""
    data = bytes(range(200))
    train, held_out = split(data, context=7)
    assert bytes(train.tolist()) + bytes(held_out.tolist()) == data
    assert len(held_out) == int(len(data) * HELD_OUT)
    windows = Windows(train, 7)
    assert all(torch.equal(x[1:], y[:-1]) for x, y in (windows[i] for i in range(len(windows))))
    predicted = torch.cat([windows[i][1] for i in range(len(windows))])
    assert torch.equal(predicted, train[1 : 1 + len(predicted)].long())
    assert len(train) - 1 - len(predicted) < 7
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_the_model_does_not_see_the_future():
    """A later byte changes no earlier prediction."""
    job = make_job(Config(width=8, heads=2, layers=2, context=16), bytes(200))
    x = torch.arange(16)[None]
    changed = x.clone()
    changed[0, 9] += 1
    same = (job.model(x) == job.model(changed)).all(-1)[0]
    assert same[:9].all()
    assert not same[9:].any()


def test_a_sample_is_a_function_of_its_arguments():
    """The same seed gives the same text, also longer than the context; temperature 0 needs none; modes come back."""
    model = make_job(Config(width=8, heads=2, layers=1, context=4), bytes(200)).model
    draw = generate(model, b"ab", 9, temperature=1.0, seed=1)
    assert (
        draw == generate(model, b"ab", 9, temperature=1.0, seed=1) != generate(model, b"ab", 9, temperature=1.0, seed=2)
    )
    assert len(draw) == 11
    assert generate(model, b"", 3, temperature=0.0, seed=1) == generate(model, b"", 3, temperature=0.0, seed=2)
    assert model.training


def test_a_config_survives_a_checkpoint():
    """What a checkpoint stores of a config is JSON, and gives the config back."""
    config = Config(data=("a", "b"), warmup=3, threads=2)
    assert Config.from_json(json.loads(json.dumps(config.as_json()))) == config


def test_folder_of_a_run_knows_where_it_is(train, tmp_path):
    """What `resume` begins from is what `train` ended with."""
    train("run")
    folder = Folder.go_on(tmp_path / "run", None)
    assert folder.job.trainer.state.position == 9
    validations = {
        row["bits_per_byte"]: row["updates"] for row in read_rows(folder.path / LOG) if row["kind"] != "update"
    }
    assert folder.best() == min(validations.items())
