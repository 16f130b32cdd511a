"""Loaders, losses and plans."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Subset, TensorDataset
from trainer_cases import Recorder, bits, dataset, model, trained, trainer

import fnopt
from fnopt.trainer.loaders import Replayed, resumable
from fnopt.trainer.losses import classification_loss, model_loss

DATA = dataset()


def drop(samples):
    return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])


REBUILT = {
    "sequential": ({}, {"shuffle": False}),
    "shuffled": ({"shuffle": True}, {"shuffle": True}),
    "drop_last": ({"drop_last": True}, {"tail": "full"}),
    "collate": ({"collate_fn": drop}, {"collate": drop}),
    "workers": ({"num_workers": 2}, {"workers": 2}),
    "batch_size": ({"batch_size": 7}, {"batch_size": 7}),
}


@pytest.mark.parametrize("name", REBUILT)
def test_a_data_loader_is_rebuilt(name):
    """Dataset, batch size, collate, workers and drop_last stay; the order is ours."""
    given, expected = REBUILT[name]
    data, note = resumable("train_loader", DataLoader(DATA, **{"batch_size": 4, **given}), 3, seed=5)
    assert isinstance(data, fnopt.Batches)
    assert (data.dataset, data.micro_batches, data.seed, note) == (DATA, 3, 5, "")
    assert {name: getattr(data, name) for name in expected} == expected


def test_drop_last_drops_what_torch_drops():
    """The last batch, and no other: also under accumulation."""
    loader = DataLoader(DATA, batch_size=4, drop_last=True)
    data, _ = resumable("train_loader", loader, 3, seed=0)
    ours = [part for item in data for part in item]
    assert [len(part[1]) for part in ours] == [len(y) for _, y in loader]


class Own(DataLoader):
    def __iter__(self):
        return iter([])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(DATA)


def _init(worker):
    pass


KEPT = {
    "a list": (lambda: [DATA[:4]], "an iterable"),
    "iterable": (lambda: DataLoader(Stream(), 4), "its dataset can only be iterated"),
    "replacement": (lambda: DataLoader(DATA, 4, sampler=RandomSampler(DATA, replacement=True)), "custom sampler"),
    "fewer": (lambda: DataLoader(DATA, 4, sampler=RandomSampler(DATA, num_samples=8)), "another number"),
    "other": (lambda: DataLoader(DATA, 4, sampler=RandomSampler(Subset(DATA, range(4)))), "from another dataset"),
    "batch sampler": (lambda: DataLoader(DATA, batch_sampler=[[0, 1], [2]]), "custom batch_sampler"),
    "class": (lambda: Own(DATA, 4), "its class iterates in its own way"),
    "worker_init_fn": (lambda: DataLoader(DATA, 4, worker_init_fn=_init), "worker_init_fn"),
    "no batches": (lambda: DataLoader(DATA, batch_size=None), "it has no batch_size"),
}


@pytest.mark.parametrize("name", KEPT)
def test_another_loader_is_kept_and_announced(name):
    """What cannot be rebuilt is iterated as it is; the plan says why."""
    make, why = KEPT[name]
    data, note = resumable("train_loader", make(), None, seed=0)
    assert isinstance(data, Replayed)
    assert why in note


def test_a_replay_repeats():
    """What a kept loader draws depends on (seed, epoch): two readings are equal, two seeds and epochs are not."""

    def read(seed, count=12):
        loader = DataLoader(DATA, 4, sampler=RandomSampler(DATA, replacement=True))
        data = Replayed(loader, seed)
        return [y.tolist() for _, (_, y) in zip(range(count), data.iter_from(0), strict=False)]

    before = torch.random.get_rng_state()
    assert read(0) == read(0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert read(0) != read(1)
    assert read(0)[:6] != read(0)[6:]


def test_a_sampler_is_told_the_epoch():
    """As DistributedSampler expects."""
    told = []

    class Sampler(torch.utils.data.Sampler):
        def set_epoch(self, epoch):
            told.append(epoch)

        def __len__(self):
            return 4

        def __iter__(self):
            return iter(range(4))

    trained(train_loader=DataLoader(DATA, 2, sampler=Sampler()), val_loader=None)
    assert told == [0, 1, 2]


def test_a_one_shot_iterator_needs_max_steps():
    """A generator of batches can train once."""
    batches = (batch for batch in [DATA[:4]] * 3)
    assert int(trained(train_loader=batches, max_steps=3, max_epochs=None).updates) == 3


def test_batches_of_ones_own_are_taken_as_they_are():
    """fnopt.Batches keep their seed and windows."""
    data = fnopt.Batches(DATA, 4, micro_batches=2, seed=9)
    assert bits(trained(train_loader=data)) == bits(trained(train_loader=data, grad_accum_steps=2))


# Losses


def test_without_a_loss_it_is_cross_entropy():
    """The default is the loss that one would write, and the plan says it in one line."""
    made = trainer(loss=None)
    made.train()
    assert bits(made.state) == bits(trained())
    assert "loss: cross-entropy of (x, integer labels), since no loss was given" in str(made.plan())
    assert "loss:" not in str(trainer().plan())


def test_ignored_labels_have_no_weight():
    """Tokens of -100 count nothing, in sequences too."""
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[0, -100, 1], [-100, -100, 4]])
    loss, weight, aux = classification_loss(nn.Identity(), (logits, labels))
    expected = nn.functional.cross_entropy(logits[labels >= 0], labels[labels >= 0], reduction="sum")
    assert weight == 3
    assert torch.allclose(loss, expected)
    assert aux["accuracy"] == (logits.argmax(-1) == labels).sum()


class Causal(nn.Module):
    """As a causal language model of Hugging Face: shifts the labels, returns its mean."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 7)

    def forward(self, input_ids, labels):
        logits = self.table(input_ids)[:, :-1]
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())}


def test_a_model_that_returns_its_loss_is_accumulated_right():
    """Its means count by their tokens: two unequal micro-batches have the gradient of the whole."""
    own = Causal()
    labels = torch.tensor([[1, 2, 3, -100], [1, -100, -100, 2], [4, 5, 6, 0]])
    batch = {"input_ids": labels.clamp(0), "labels": labels}
    loss = model_loss(shifted=True)
    total, weight = loss(own, batch)
    parts = [loss(own, {name: value[rows] for name, value in batch.items()}) for rows in ([0], [1, 2])]
    assert weight == sum(part[1] for part in parts) == 6
    assert torch.allclose(total, sum(part[0] for part in parts))
    assert loss(own, {"input_ids": labels[:1] * 0, "labels": labels[:1] * 0 - 100})[0] == 0


WRONG = {
    "tuple": (lambda: model_loss()(Causal(), (1, 2)), "the batch is a tuple, expected a dict with"),
    "keys": (lambda: model_loss()(Causal(), {"x": 1}), r"a dict of \['x'\]"),
    "no loss": (lambda: model_loss()(lambda labels: {"logits": labels}, {"labels": torch.ones(1)}), "without a loss"),
    "dict": (lambda: classification_loss(model(), {"x": 1}), r"a dict of \['x'\].*fnopt.model_loss\(\)"),
    "shape": (lambda: classification_loss(nn.Flatten(), (torch.zeros(2, 3, 4), torch.zeros(2, 3).long())), "gave"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_loss_says_what_it_needs(name):
    """A LossError with the loss to write."""
    make, sentence = WRONG[name]
    with pytest.raises(fnopt.FnoptError, match=sentence):
        make()


# Plans


def test_the_plan_is_what_the_run_does():
    """Updates, micro-steps, samples and rates, counted in the run itself."""
    for given in ({}, {"grad_accum_steps": 4}, {"max_epochs": None, "max_steps": 7, "grad_accum_steps": 2}):
        calls = []

        def counts(model, batch, calls=calls):
            if model.training:
                calls.append(len(batch[1]))
            return model(batch[0]).square().sum(), len(batch[1])

        rate = fnopt.warmup_cosine(peak=0.1, warmup=2, total=6)
        made = trainer(loss=counts, optimizer=fnopt.SGD(rate), callbacks=[seen := Recorder()], **given)
        plan = made.plan()
        made.train()
        assert plan.updates == int(made.state.updates) == len(seen.metrics)
        assert (plan.micro_steps, plan.samples) == (len(calls), sum(calls))
        used = [row["lr"] for row in seen.metrics]
        assert f"lr: {used[0]:.3g} first, {max(used):.3g} peak, {used[-1]:.3g} last" in str(plan)


def test_the_plan_names_the_tail_and_where_it_goes_on():
    """The last update of an epoch has fewer samples; a run that goes on says from where."""
    made = trainer(grad_accum_steps=2)
    assert made.plan().tail == "the last update of an epoch has 6 of 8 samples"
    made.train()
    assert "9 (3 epochs of 3), from update 9 on" in str(made.plan())
    assert trainer(train_loader=fnopt.Batches(DATA, 11)).plan().tail == "none: epochs end even"
    assert trainer(train_loader=[DATA[:4]]).plan().samples is None


def test_a_schedule_that_asks_python_is_planned_too():
    """Any function of the step is a Schedule."""
    made = trainer(optimizer=fnopt.SGD(lambda step: torch.tensor(0.1 if step < 5 else 0.2)))
    assert "lr: 0.1 first, 0.2 peak, 0.2 last" in str(made.plan())
    assert isinstance(DATA, TensorDataset)
