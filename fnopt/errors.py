"""What can go wrong, as types: each is a `FnoptError` and the builtin that a user would catch.

A message is one sentence: what, got, expected, fix.
"""


class FnoptError(Exception):
    """The parent of every error that fnopt raises on purpose."""


class HyperparameterError(FnoptError, ValueError):
    """A number out of its range, or of a type that is no hyperparameter."""


class StructureError(FnoptError, ValueError):
    """Names, shapes, dtypes or layouts that do not fit together."""


class UsageError(FnoptError, TypeError):
    """The wrong kind of thing: a module for a dict, a tuple for a list, a stateful optimizer for a pure one."""


class LossError(FnoptError, TypeError):
    """A loss that did not return `(loss_sum, weight)` or `(loss_sum, weight, aux)`."""


class DistributedModuleError(FnoptError, TypeError):
    """A DDP or FSDP module on the functional path, where its gradients would silently not be reduced."""


class NonFiniteError(FnoptError, ArithmeticError):
    """A nan or an infinity where none may be.

    `report` says which tensors, where a step of `fnopt.run` was looked into: a `NonFinite`, of fnopt.nonfinite.
    """

    report: object = None


class RollbackWarning(UserWarning):
    """A run that went back to its last good state, and why."""


class BatchError(FnoptError, RuntimeError):
    """A batch that the loss could not use: a leaf on another device, of another dtype, or in another structure."""


class EmptyDataError(FnoptError, ValueError):
    """A source of batches that would make no update."""


class DataExhaustedError(FnoptError, RuntimeError):
    """A one-shot source of batches that ended before the run did."""


class DonatedStateError(FnoptError, RuntimeError):
    """A use of a TrainState whose tensors a compiled step has written the next state into."""


class FallbackWarning(UserWarning):
    """A compiled step runs eagerly, and why; given once."""


class CheckpointWarning(UserWarning):
    """A checkpoint was passed over, could not be removed, or lacks buffers; says which file, and why."""


class CheckpointError(FnoptError):
    """A checkpoint that cannot be used; says which file, which item, what was expected and found, and what to do."""

    def __init__(
        self, message: str, *, path: str = "", item: str = "", expected: str = "", found: str = "", hint: str = ""
    ):
        super().__init__(message)
        self.path, self.item, self.expected, self.found, self.hint = path, item, expected, found, hint


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No file at that path."""


class NotACheckpointError(CheckpointError, ValueError):
    """A file, but none that fnopt wrote."""


class CheckpointCorruptError(CheckpointError, ValueError):
    """A checkpoint whose bytes are not those that were written."""


class UnsafeCheckpointError(CheckpointError, ValueError):
    """A file that would cost far more memory than it has bytes, or holds names that no state has."""


class CheckpointVersionError(CheckpointError, ValueError):
    """A checkpoint of a schema that this fnopt does not know."""


class StateMismatchError(CheckpointError, ValueError):
    """A good checkpoint, or state_dict, of another run: names, shapes, dtypes or optimizer differ.

    `problems` are all reasons, where there can be several.
    """

    problems: tuple[str, ...] = ()


class NoUsableCheckpointError(CheckpointError, ValueError):
    """A folder of checkpoints none of which can be used; `problems` has the reason for each."""

    problems: tuple[str, ...] = ()


class RunLockedError(CheckpointError, RuntimeError):
    """A folder in which another process, or another manager, may be writing."""


class CheckpointReadError(CheckpointError, OSError):
    """A file that the system does not let us read."""


class CheckpointWriteError(CheckpointError, OSError):
    """A checkpoint that could not be made durable; its path still is the old file (or already the new one), whole."""
