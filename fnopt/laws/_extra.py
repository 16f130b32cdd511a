"""Imported first, so that one sentence says what is missing."""

from importlib.util import find_spec

if find_spec("hypothesis") is None:
    raise ImportError("fnopt.laws draws its cases with Hypothesis, which is not installed: pip install 'fnopt[laws]'")
