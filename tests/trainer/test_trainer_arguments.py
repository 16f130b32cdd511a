"""What arguments do, where more is to say than that they change something."""

import json
import re

import pytest
import torch
from trainer_cases import Recorder, bits, loss, model, trained, trainer

import fnopt


def test_device_is_where_the_state_is():
    """The model and the state move to the device."""
    assert trainer(device="meta").state.params["0.weight"].device.type == "meta"


def test_val_loader_and_eval_interval_say_what_is_validated_and_when():
    """Without a val_loader nothing is; with one, once per epoch, or every so many steps, and at the end."""

    def events(**given):
        trained(callbacks=[recorder := Recorder()], **given)
        return [view[0] for view, event in _pairs(recorder) if event == "validate"]

    def _pairs(recorder):
        view, pairs = None, []
        views = iter(recorder.views)
        for event in recorder.events:
            view = next(views) if event == "update" else view
            pairs.append((view, event))
        return pairs

    assert events(val_loader=None) == []
    assert events() == [6, 12, 18]
    assert events(eval_interval=5) == [5, 10, 15, 18]


def test_save_dir_and_keep_say_what_stays(tmp_path):
    """The last `keep` checkpoints, the best one, its own file, and the log."""
    trained(save_dir=tmp_path / "a", keep=1, max_epochs=4)
    trained(save_dir=tmp_path / "b", keep=4, max_epochs=4)
    few, all_ = ({path.name for path in (tmp_path / name).glob("step-*")} for name in "ab")
    assert few < all_
    assert len(all_) == 4
    assert {"best.safetensors", "log.jsonl"} <= {path.name for path in (tmp_path / "a").iterdir()}


@pytest.mark.parametrize(("monitor", "mode"), [("loss", "min"), ("loss", "max"), ("accuracy", "max")])
def test_monitor_and_mode_say_which_is_best(tmp_path, monitor, mode):
    """best.safetensors is the first of the best, and says which weights it holds."""
    found = []

    class Note:
        def on_validate(self, view):
            found.append((view.validation[monitor], view.position))

    trained(save_dir=tmp_path, monitor=monitor, mode=mode, callbacks=[Note()], max_epochs=4)
    info = fnopt.read_info(tmp_path / "best.safetensors")
    best = (min if mode == "min" else max)(found, key=lambda item: item[0])
    assert (info["info"]["marks"]["best"], info["position"]) == best
    assert info["info"]["weights"].startswith("params are the weights that were validated")


def test_log_interval_and_progress_say_what_is_printed(capsys):
    """Lines come every so many steps; none at all without progress."""

    def lines(**given):
        trained(**given)
        return [line for line in capsys.readouterr().out.splitlines() if re.match(r"update +\d+/18", line)]

    assert lines(progress=False, log_interval=2) == []
    assert len(lines(progress=True, log_interval=2)) > len(lines(progress=True, log_interval=9)) > 0


def test_callbacks_are_called_at_their_events(tmp_path):
    """Updates, validations and saves, in this order; the view says where the run is, the model holds its weights."""
    own, same = model(), []

    class Looks(Recorder):
        def on_update(self, view):
            super().on_update(view)
            same.append(torch.equal(own[0].weight, view.state.params["0.weight"]))

    trained(model=own, callbacks=[seen := Looks()], save_dir=tmp_path)
    assert seen.events == (["update"] * 6 + ["validate", "save"]) * 3
    assert seen.views[6] == (7, 1, 7, 18)
    assert all(same)


def test_a_callback_can_ask_to_stop():
    """True from on_validate ends the run after the validation; train() again goes on."""

    class Enough:
        asked = 0

        def on_validate(self, view):
            self.asked += 1
            return self.asked == 1

    made = trainer(callbacks=[Enough()])
    made.train()
    assert made.state.position == 6
    made.train()
    assert bits(made.state) == bits(trained())


def test_compile_compiles():
    """trainer.step is a compiled one."""
    assert hasattr(trainer(compile=True).step, "stats")
    assert not hasattr(trainer().step, "stats")


def test_deterministic_is_on_during_the_run_only():
    """Also where the user had it on before."""
    seen = []

    def looks(model, batch):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return loss(model, batch)

    trained(loss=looks, deterministic=True, max_steps=2, val_loader=None)
    assert seen == [True, True]
    assert not torch.are_deterministic_algorithms_enabled()
    trained(loss=looks, max_steps=2, val_loader=None)
    assert seen[2:] == [False, False]


def test_deterministic_refuses_what_is_not():
    """An operation without a deterministic algorithm is torch's error, which names it; without the argument it runs."""

    def loss(model, batch):
        total = model(batch[0]).square().sum()
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2))
        return total, len(batch[1])

    trained(loss=loss, max_steps=1, val_loader=None)
    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        trained(loss=loss, deterministic=True, max_steps=1, val_loader=None)


def test_a_tracker_is_told_of_a_run():
    """W&B's or trackio's run gets every step and validation, in rising steps, from the Trainer itself."""

    class Run:
        def __init__(self):
            self.steps, self.names = [], set()

        def log(self, data, step):
            self.steps.append(step)
            self.names |= data.keys()

    trained(callbacks=[fnopt.callbacks.Tracker(run := Run())], update_ratio=True)
    assert run.steps == sorted([*range(1, 19), 6, 12, 18])
    assert {"train/loss", "train/lr", "train/grad_norm", "train/update_ratio", "val/loss", "val/accuracy"} <= run.names


def test_train_again_says_that_nothing_is_left(capsys):
    """At the end, train() changes nothing, says so in one line, and returns the last validation."""
    made = trainer(progress=True)
    first, state = made.train(), bits(made.state)
    capsys.readouterr()
    assert made.train() == first
    assert capsys.readouterr().out == "nothing to do: already at update 18, the end of max_epochs=3\n"
    assert bits(made.state) == state


def test_the_log_has_a_row_for_each_step(tmp_path):
    """log.jsonl holds every step and validation."""
    trained(save_dir=tmp_path)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (kinds.count("update"), kinds.count("validation")) == (18, 3)
