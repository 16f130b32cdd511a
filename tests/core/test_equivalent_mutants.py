"""What tests/bench/mutation.py does not count as a mutant is proved to be the same function."""

import random
import typing

import pytest
import torch
from equivalent_mutants import SAME, is_equivalent, without_casts

DRAWS = 10_000


def outcome(function, arguments):
    """What a call returns, tensors as bits, or the error it raises."""
    try:
        return bits(function(*arguments))
    except Exception as error:
        return type(error), str(error)


def bits(value):
    """A value that can be compared, also where it is nan."""
    if isinstance(value, torch.Tensor):
        return (
            value.dtype,
            value.device,
            value.shape,
            value.detach().reshape(-1).contiguous().view(torch.uint8).tolist(),
        )
    if isinstance(value, dict):
        return [(key, bits(item)) for key, item in value.items()]
    return [bits(item) for item in value] if isinstance(value, tuple | list) else value


@pytest.mark.slow
@pytest.mark.parametrize("row", SAME, ids=[f"{row.function.__qualname__}-{row.after}" for row in SAME])
def test_the_mutant_is_the_same_function(row):
    """On 10,000 drawn inputs the mutant gives the bits, or the error, of the original, and changes its inputs alike."""
    mutant, rng = row.mutant(), random.Random(0)
    errors = 0
    for _ in range(DRAWS):
        arguments = row.draw(rng)
        expected = outcome(row.function, arguments)
        assert outcome(mutant, arguments) == expected
        errors += isinstance(expected, tuple) and isinstance(expected[0], type)
    assert errors < DRAWS / 5


def test_a_cast_is_its_value():
    """`cast(anything, value)` is `value` itself, for 10,000 drawn pairs: mutants of the type are no mutants."""
    rng = random.Random(0)
    things = [
        None,
        object,
        dict[str, int],
        "a string",
        0,
        1.5,
        [],
        {},
        torch.ones(()),
        torch.nn.Module,
        rng,
        typing.Any,
    ]
    for _ in range(DRAWS):
        value = rng.choice(things)
        assert typing.cast(rng.choice(things), value) is value


def test_only_casts_are_erased():
    """Equal but for the type of a cast is equivalent; any other change of the line is not."""
    line = "def f(x):\n    return len(cast(list[int], x)[0])"
    assert without_casts(line) == without_casts("def f(x):\n    return len(x[0])")
    assert is_equivalent("any.py", line, line.replace("list[int]", "None"))
    assert not is_equivalent("any.py", line, line.replace("[0]", "[1]"))
    assert not is_equivalent("any.py", line, line.replace(", x)", ", None)"))


def test_a_row_is_found_by_its_text():
    """A row of the table excuses its own line of its own file only."""
    row = SAME[0]
    original, mutant = (f"def f():\n    {line}" for line in (row.before, row.after))
    assert is_equivalent(row.path, original, mutant)
    assert not is_equivalent("fnopt/other.py", original, mutant)
    assert not is_equivalent(row.path, original, mutant.replace("step", "other"))
