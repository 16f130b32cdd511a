"""What torch's optimizers lack (schedules of their own, wrappers, partitions, compiled rules) works in trainers."""

import copy
import pickle

import pytest
from client_cases import ARGUMENTS, MAX_NORM, NAMES, arguments, assert_same_bits, clipped_adamw, gap, outcome
from torch.optim.lr_scheduler import CosineAnnealingLR
from transformers_cases import STEPS, checkpoint, language_model, run_to_the_end, sentences, settings, trainer

import fnopt
from fnopt import optim

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread", "no_accelerator")]
ADAMW = fnopt.AdamW(**ARGUMENTS["AdamW"])


def noisy(std):
    """AdamW behind clipping behind noise."""
    return fnopt.chain(fnopt.AddNoise(std, seed=3), fnopt.ClipNorm(MAX_NORM), ADAMW)


RULES = {
    "noise and clipping": noisy(0.01),
    "adaptive clipping": fnopt.chain(fnopt.AdaptiveClip(0.01), fnopt.SGD(0.1, momentum=0.9)),
    "Adam in a chain": fnopt.chain(fnopt.ScaleByAdam(), fnopt.SGD(0.01)),
    "Lion": fnopt.Lion(1e-3),
    "lookahead": fnopt.lookahead(ADAMW, k=3),
    "average": fnopt.ema(ADAMW, 0.9),
    "schedule-free": fnopt.ScheduleFree(fnopt.SGD(0.1)),
}


class Unscheduled:
    """Stands where the Trainer asks for a scheduler: the optimizer follows its own schedule, or needs none."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        """Nothing to do."""

    def state_dict(self):
        return {}

    def load_state_dict(self, _):
        """Nothing to load."""

    def get_last_lr(self):
        return [group.get("lr", 0.0) for group in self.optimizer.param_groups]


def annealed(optimizer):
    """A scheduler of torch."""
    return CosineAnnealingLR(optimizer, STEPS)


def step_by_hand(model, optimizer):
    """Two updates."""
    for row in sentences()[:2]:
        optimizer.zero_grad()
        model(**{key: tokens[None] for key, tokens in row.items()}).loss.backward()
        optimizer.step()


def train(make_optimizer, scheduler, folder, resume=None):
    """A run of the Trainer over all named parameters; its own clipping is off."""
    model = language_model()
    optimizer = make_optimizer(model.named_parameters())
    given = (optimizer, scheduler(optimizer))
    run_to_the_end(trainer(model, settings(folder, max_grad_norm=0.0), optimizers=given), resume)
    return outcome(model, optimizer)


def resumed_as_whole(make_optimizer, scheduler, folder):
    """A run is the same in one piece and in two; returns what it left."""
    whole = train(make_optimizer, scheduler, folder / "whole")
    assert_same_bits(train(make_optimizer, scheduler, folder / "rest", checkpoint(folder / "whole")), whole)
    return whole


@pytest.mark.parametrize("rule", RULES)
def test_any_pure_optimizer_resumes(rule, tmp_path):
    """Whatever a pure optimizer remembers is in the trainer's checkpoint: a run in two pieces is the run in one."""
    scheduler = Unscheduled if rule == "schedule-free" else annealed
    resumed_as_whole(lambda named: optim.TorchOptimizer(named, RULES[rule]), scheduler, tmp_path)


def partitioned(named):
    """Matrices by AdamW, the rest by SGD."""
    named = list(named)
    labels = {name: "matrices" if param.ndim == 2 else "rest" for name, param in named}
    return optim.TorchOptimizer(named, fnopt.partition({"matrices": ADAMW, "rest": fnopt.SGD(0.1)}, labels))


def test_a_partition_is_two_groups_for_a_scheduler(tmp_path):
    """A scheduler of torch writes lr of each part, and both resume."""
    left = resumed_as_whole(partitioned, annealed, tmp_path)
    numbers = {key: value for key, value in left["optimizer 0"].items() if key.endswith("lr")}
    assert [numbers[f"/param_groups/{place}/initial_lr"] for place in (0, 1)] == [ADAMW.lr, 0.1]
    assert all(numbers[f"/param_groups/{place}/lr"] < 1e-8 for place in (0, 1))


def test_an_own_schedule_is_torchs_scheduler(tmp_path):
    """A schedule in the optimizer does what the same schedule outside does to rounding, and resumes by its clock."""

    def own(named):
        return optim.TorchOptimizer(named, fnopt.AdamW(**{**ARGUMENTS["AdamW"], "lr": fnopt.cosine(1e-2, STEPS)}))

    def given(named):
        return optim.TorchOptimizer(named, ADAMW)

    inside = resumed_as_whole(own, Unscheduled, tmp_path)
    outside, constant = (train(given, scheduler, tmp_path) for scheduler in (annealed, Unscheduled))
    assert gap(inside, outside) < 1e-5 < 1e-3 < gap(constant, outside)


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_rule_ends_where_the_eager_one_does(name, tmp_path):
    """`compile=True` moves a run by rounding only, and resumes to the bit."""

    def rule(compile):
        eps = {"eps": 1e-5} if name == "AdamW" else {}  # see CLIPPED
        return lambda named: getattr(optim, name)(named, compile=compile, **arguments(name, **eps))

    whole = resumed_as_whole(rule(True), annealed, tmp_path)
    assert gap(whole, train(rule(False), annealed, tmp_path / "eager")) < 1e-6


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("make_optimizer", [clipped_adamw, partitioned, lambda named: optim.AdamW(named, compile=True)])
def test_a_copy_goes_on(make_optimizer, copied):
    """Model and optimizer, deep-copied or pickled together half-way, end as the original, which goes on untouched."""
    model = language_model().eval()
    optimizer = make_optimizer(model.named_parameters())
    step_by_hand(model, optimizer)
    other = copied((model, optimizer))
    step_by_hand(model, optimizer)
    step_by_hand(*other)
    assert_same_bits(outcome(*other), outcome(model, optimizer))


def test_the_comparison_can_fail(tmp_path):
    """Negative control: resumed with stronger noise, a run ends elsewhere."""
    whole = train(lambda named: optim.TorchOptimizer(named, noisy(0.01)), annealed, tmp_path)
    rest = train(lambda named: optim.TorchOptimizer(named, noisy(0.02)), annealed, tmp_path / "2", checkpoint(tmp_path))
    with pytest.raises(AssertionError, match="params"):
        assert_same_bits(rest, whole)
