"""One Hypothesis profile for the whole suite: no deadline, and the same cases on every run."""

from hypothesis import settings

settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.load_profile("suite")
