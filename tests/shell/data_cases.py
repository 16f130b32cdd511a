"""How the tests of data draw Batches."""

from hypothesis import settings
from hypothesis import strategies as st

from fnopt.data import Batches

laws = settings(deadline=None, max_examples=60)


@st.composite
def batches(draw, **fixed):
    """Batches over 0 … n-1, so that an item shows its indices; `fixed` are arguments not to draw."""
    shuffle, tail = draw(st.booleans()), fixed.get("tail", draw(st.sampled_from(["step", "full", "drop"])))
    batch_size, micro_batches = draw(st.integers(1, 6)), draw(st.none() | st.integers(1, 4))
    least = {"step": 1, "full": batch_size, "drop": batch_size * (micro_batches or 1)}[tail]
    size, seed = draw(st.integers(least, least + 40)), draw(st.integers(-(2**70), 2**70))
    return Batches(range(size), batch_size, micro_batches, **{"seed": seed, "shuffle": shuffle, "tail": tail} | fixed)


positions = st.integers(0, 200)
