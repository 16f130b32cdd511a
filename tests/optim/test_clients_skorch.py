"""skorch leaves the same bits with fnopt.optim as with torch.optim."""

import copy
import pickle

import pytest
import torch
from client_cases import (
    ARGUMENTS,
    MAX_NORM,
    NAMES,
    arguments,
    assert_drop_in,
    assert_same_bits,
    classifier,
    clipped_adamw,
    examples,
    gap,
    outcome,
    torchs_adamw,
)

from fnopt import optim

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
EPOCHS = 4
BIASES = ("*.bias", {"lr": 0.02, "weight_decay": 0.0})  # a group of their own
FILES = ("params", "optimizer", "history")


class Head(torch.nn.Module):
    """A module that skorch can build by itself, of the same weights every time."""

    def __init__(self):
        super().__init__()
        self.net = classifier(dropout=0.0)  # skorch keeps no random state for what goes on

    def forward(self, x):
        return self.net(x)


def network(make_optimizer, *callbacks, max_norm=MAX_NORM, **changes):
    """A classifier that is not trained yet."""
    from skorch import NeuralNetClassifier
    from skorch.callbacks import GradientNormClipping

    clip = [GradientNormClipping(max_norm)] if max_norm else []
    settings = {"train_split": None, "batch_size": 8, "max_epochs": EPOCHS, "verbose": 0, **changes}
    parts = {"criterion": torch.nn.CrossEntropyLoss, "optimizer": make_optimizer, "callbacks": [*clip, *callbacks]}
    return NeuralNetClassifier(Head, **parts, **settings)


def network_with(module, name, *callbacks, **changes):
    """The same, with the optimizer `name` of `module`, biases in a group of their own."""
    given = {"lr" if key == "lr" else f"optimizer__{key}": value for key, value in arguments(name).items()}
    return network(getattr(module, name), *callbacks, optimizer__param_groups=[BIASES], **given, **changes)


def left_by(net):
    """What this net's training left."""
    return outcome(net.module_, net.optimizer_)


@pytest.mark.parametrize("name", NAMES)
def test_skorch_takes_it_for_torchs(name):
    """With a group for the biases, clipping and CyclicLR at every batch, a fit is torch's."""
    from skorch.callbacks import LRScheduler

    def fitted(module):
        schedule = LRScheduler("CyclicLR", base_lr=0.01, max_lr=0.05, step_size_up=3, step_every="batch")
        return left_by(network_with(module, name, schedule).fit(*examples()))

    ours, theirs = fitted(optim), fitted(torch.optim)
    assert_drop_in(ours, theirs)
    assert theirs["optimizer 0"]["/param_groups/0/weight_decay"] == 0.0
    assert theirs["optimizer 0"]["/param_groups/1/weight_decay"] == ARGUMENTS[name]["weight_decay"]


@pytest.mark.parametrize("name", NAMES)
def test_hyperparameters_set_between_epochs_are_used(name):
    """lr for all, then lr and weight decay of one group, set on a net in training, act as they do with torch."""

    def use(module, change):
        net = network_with(module, name).partial_fit(*examples())
        return left_by(net.set_params(**change).partial_fit(*examples()))

    kept = use(torch.optim, {})
    group = {"optimizer__param_groups__0__lr": 0.3, "optimizer__param_groups__1__weight_decay": 0.3}
    for change in ({"lr": 0.1}, {"optimizer__weight_decay": 0.3}, group):
        theirs = use(torch.optim, change)
        assert gap(theirs, kept) > 1e-4
        assert_drop_in(use(optim, change), theirs)


def half_way(module, name):
    """A net after half of its epochs."""
    return network_with(module, name).partial_fit(*examples(), epochs=EPOCHS // 2)


def from_files(net, module, name, folder):
    """A new net that loaded what this one saved."""
    files = {f"f_{part}": str(folder / part) for part in FILES}
    net.save_params(**files)
    other = network_with(module, name).initialize()
    other.load_params(**files)
    return other


@pytest.mark.parametrize("saver", [optim, torch.optim])
@pytest.mark.parametrize("name", NAMES)
def test_a_net_goes_on_from_its_files(name, saver, tmp_path):
    """Weights, optimizer and history, saved half-way with either library, go on to where torch's fit ends."""
    theirs = left_by(network_with(torch.optim, name).fit(*examples()))
    for loader in (optim, torch.optim):
        net = from_files(half_way(saver, name), loader, name, tmp_path)
        resumed = left_by(net.partial_fit(*examples(), epochs=EPOCHS // 2))
        (assert_drop_in if loader is optim else assert_same_bits)(resumed, theirs)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("name", NAMES)
def test_a_copied_net_goes_on(name, copied):
    """A net that was pickled or deep-copied half-way ends where torch's fit does, and so does the original."""
    theirs = left_by(network_with(torch.optim, name).fit(*examples()))
    net = half_way(optim, name)
    for going in (copied(net), net):
        assert_drop_in(left_by(going.partial_fit(*examples(), epochs=EPOCHS // 2)), theirs)


def test_a_grid_search_is_torchs():
    """scikit-learn's search, which clones the net, gives each candidate the score that it has with torch."""
    from sklearn.model_selection import GridSearchCV

    x, y = (part.numpy() for part in examples(48))
    grid = {"lr": [1e-3, 3e-2], "optimizer__weight_decay": [0.0, 0.5]}
    found = [GridSearchCV(network_with(side, "AdamW"), grid, cv=3).fit(x, y) for side in (optim, torch.optim)]
    ours, theirs = [search.cv_results_["mean_test_score"].tolist() for search in found]
    assert ours == theirs
    assert len(set(ours)) > 1
    assert_drop_in(*[left_by(search.best_estimator_) for search in found])


def test_a_pure_chain_clips_as_skorch_does():
    """ClipNorm in the chain ends where skorch's clipping and torch's AdamW do."""

    def fitted(make_optimizer, max_norm):
        net = network(lambda groups, lr: make_optimizer(groups), max_norm=max_norm)  # skorch always passes its lr
        return left_by(net.fit(*examples()))

    theirs, unclipped = (fitted(torchs_adamw, max_norm) for max_norm in (MAX_NORM, None))
    ours = fitted(clipped_adamw, None)
    assert gap(ours, theirs) < 1e-6 < 1e-4 < gap(unclipped, theirs)


def test_the_comparison_can_fail():
    """Negative control: without the biases' own group, the weights are others."""
    ours, theirs = (network_with(module, "AdamW") for module in (optim, torch.optim))
    ours.set_params(optimizer__param_groups=[])
    with pytest.raises(AssertionError, match="params"):
        assert_drop_in(left_by(ours.fit(*examples())), left_by(theirs.fit(*examples())))
