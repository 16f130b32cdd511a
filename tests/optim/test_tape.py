"""The tape does what the formula does: any row of operations on entries, to the bit, in place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fnopt
import fnopt.optim
from fnopt.optim.home import Buffer, overlapping
from fnopt.optim.player import Player
from fnopt.optim.recorder import CannotTapeError, record
from fnopt.optim.rule import Rule
from fnopt.optim.tape import CHUNK, Scratch

BINARY = (torch.add, torch.sub, torch.mul, torch.maximum, torch.minimum)
SCALED = (torch.mul, torch.add, torch.sub)
TERNARY = (torch.addcmul, torch.lerp)
pytestmark = pytest.mark.usefixtures("one_thread")


@st.composite
def formulas(draw):
    """A formula of 3 leaves and 2 numbers that gives new values of the first two: a random row of operations."""
    count = draw(st.integers(1, 12))
    rows = [draw(st.tuples(st.integers(0, 4), *[st.integers(0, 99)] * 4)) for _ in range(count)]
    ends = draw(st.tuples(st.integers(0, 99), st.integers(0, 99)))

    def formula(leaves, numbers):
        values = list(leaves)
        scale = numbers[0] * 2.0 - numbers[1]
        for kind, which, *at in rows:
            a, b, c = (values[place % len(values)] for place in at)
            if kind == 0:
                values.append(BINARY[which % 5](a, b))
            elif kind == 1:
                values.append(SCALED[which % 3](a, scale.to(a.dtype)))
            elif kind == 2:
                values.append(torch.addcmul(a, b * scale.to(a.dtype), c))
            elif kind == 3:
                values.append(torch.sqrt(torch.abs(a)) if which % 2 else -a)
            else:
                values.append(TERNARY[which % 2](a, b, c))
        return [values[-1 - end % len(values)] for end in ends]

    return formula


@given(formula=formulas(), seed=st.integers(0, 2**32 - 1), size=st.sampled_from([(), (1,), (7,), (3, 5)]))
def test_a_tape_is_its_formula(formula, seed, size):
    """Played in place, a tape leaves the bits that the formula gives on copies, and the other inputs as they were."""
    generator = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(size, generator=generator) for _ in range(3)]
    numbers = [0.75, 3]
    view = [leaf.reshape(-1) for leaf in leaves]
    tensors = [torch.tensor(0.75, dtype=torch.float64), torch.tensor(3)]
    wanted = [leaf.clone() for leaf in formula([leaf.clone() for leaf in view], tensors)]
    gradient = leaves[2].clone()
    tape = record(formula, [leaf.dtype for leaf in leaves], [0.5, 1])
    tape.at(numbers).play(leaves, Scratch())
    for got, want in zip(leaves, wanted, strict=False):
        assert torch.equal(got.reshape(-1).nan_to_num(), want.nan_to_num())
    assert torch.equal(leaves[2], gradient)


@pytest.mark.parametrize(
    ("formula", "why"),
    [
        (lambda leaves, _: [leaves[0] / leaves[1].sum()], "sum"),
        (lambda leaves, _: [leaves[0] * leaves[1].norm()], "norm"),
        (lambda leaves, _: [leaves[0] * float(leaves[1].max())], "max"),
        (lambda leaves, _: [leaves[0].flip(0)], "flip"),
        (lambda leaves, _: [leaves[0].clone().mul_(2.0)], "mul_"),
        (lambda leaves, _: [torch.zeros(3)], "a new value"),
        (lambda leaves, _: [leaves[0] * torch.arange(3.0)], "no single number"),
    ],
)
def test_what_is_no_row_of_operations_on_entries_is_refused(formula, why):
    """Sums, shuffles, reads and tensors from elsewhere are no tape, and say which operation it was."""
    with pytest.raises(CannotTapeError, match=why):
        record(formula, [torch.float32] * 2, [])


def passes(rule, memories):
    """The operations and scratch tensors of a rule's tape."""
    player, taken = Player(False), Rule.of(rule)
    apply = player.applier(taken, memories, [torch.float32] * (len(memories) + 2), 3)
    tape = apply.__closure__[0].cell_contents.tape
    return len(tape.ops), len(tape.scratch)


def test_adamw_is_eight_passes_and_one_scratch_tensor():
    """As many as torch's in-place AdamW has, without its copy of the gradient's size."""
    assert passes(fnopt.AdamW(1e-3), ["exp_avg", "exp_avg_sq"]) == (8, 1)
    assert passes(fnopt.SGD(0.1), []) == (1, 0)


def test_other_numbers_need_no_other_tape():
    """The learning rate, betas and clock are read at each step: one tape serves them all."""
    player, shapes = Player(False), [torch.float32] * 4
    first, second = (Rule.of(fnopt.AdamW(lr, betas=betas)) for lr, betas in ((0.1, (0.9, 0.99)), (0.2, (0.8, 0.9))))
    tapes = [
        player.applier(rule, ["exp_avg", "exp_avg_sq"], shapes, clock).__closure__[0].cell_contents.tape
        for rule, clock in ((first, 0), (second, 7))
    ]
    assert tapes[0] is tapes[1]
    other = Rule.of(fnopt.AdamW(0.1, amsgrad=True))
    memories = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    assert player.applier(other, memories, [torch.float32] * 5, 0).__closure__[0].cell_contents.tape is not tapes[0]


def test_large_tensors_go_in_chunks():
    """A tensor of more than one chunk has the bits of the whole, with scratch memory of one chunk."""
    scratch = Scratch()
    leaves = [torch.randn(CHUNK + 5) for _ in range(3)]
    tape = record(lambda leaves, _: [leaves[0] + torch.sqrt(leaves[2].abs()) * leaves[1]], [torch.float32] * 3, [])
    wanted = leaves[0] + torch.sqrt(leaves[2].abs()) * leaves[1]
    tape.at([]).play(leaves, scratch)
    assert torch.equal(leaves[0], wanted)
    assert max(flat.numel() for flat in scratch._flat.values()) == CHUNK


def test_a_buffer_gathers_pieces_of_any_shape():
    """Joined by one call or copied one by one, each piece lies in its view."""
    from fnopt.compile.layout import piece_of

    tensors = [torch.randn(shape) for shape in ((4, 3), (2, 3), (), (0,), (5,), (2,), (3, 2))]
    tensors.append(torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last))
    buffer = Buffer([piece_of(tensor) for tensor in tensors], torch.zeros(sum(t.numel() for t in tensors)))
    buffer.gather(tensors)
    assert all(torch.equal(view, tensor) for view, tensor in zip(buffer.views, tensors, strict=True))
    assert len(buffer._runs) < len(tensors)


def test_parameters_that_share_memory_are_found():
    """Tied and overlapping ones, and only these; neighbours in one storage do not overlap."""
    whole, free = torch.zeros(10), torch.zeros(3)
    assert overlapping([whole[:5], whole[5:], free]) == []
    assert overlapping([whole[:6], free, whole[5:]]) == [0, 2]
    assert overlapping([free, whole, free.view(1, 3), whole[::2]]) == [0, 1, 2, 3]


@fnopt.record
class Swap:
    """Remembers the parameter of before, and sets the parameter to what was remembered, less the gradient."""

    scope = "element"

    def init_state(self, params):
        return {"before": {name: torch.ones_like(p) for name, p in params.items()}}

    def update(self, grads, state, params):
        return {name: state["before"][name] - grads[name] for name in params}, {"before": dict(params)}


@fnopt.record
class SwapWhole(Swap):
    """The same, for all that is known of it: of whole parameters."""

    scope = "leaf"


@pytest.mark.parametrize("kind", [Swap, SwapWhole])
@pytest.mark.parametrize("compiled", [False, True])
def test_an_old_value_may_be_a_new_one(kind, compiled):
    """A memory that takes the parameter's old value gets it, though the parameter is overwritten."""
    leaves = [torch.nn.Parameter(torch.full((shape,), 5.0)) for shape in (3, 4)]
    optimizer = fnopt.optim.TorchOptimizer(leaves, kind(), compile=compiled)
    for leaf in leaves:
        leaf.grad = torch.full_like(leaf, 0.25)
    optimizer.step()
    assert all(torch.equal(leaf.detach(), torch.full_like(leaf, 0.75)) for leaf in leaves)
    assert all(torch.equal(optimizer.state[leaf]["before"], torch.full_like(leaf, 5.0)) for leaf in leaves)
    optimizer.step()
    assert all(torch.equal(leaf.detach(), torch.full_like(leaf, 4.75)) for leaf in leaves)
