"""P20: files of every schema that was ever released load; those of later ones say who made them."""

import tempfile
from pathlib import Path

from checkpoint_cases import fingerprint, resealed, small_state
from verdict import ROOT, Verdict

import fnopt
from fnopt.checkpoint.migrate import SCHEMA
from fnopt.errors import CheckpointError, CheckpointVersionError


def loaded() -> Verdict:
    """The committed file of each schema has the bits that it was made from; ten later schemas are refused."""
    verdict, folder = Verdict(), ROOT / "tests" / "shell"
    for schema in range(1, SCHEMA + 1):
        path = folder / f"schema{schema}.safetensors"
        try:
            same = fingerprint(fnopt.load_checkpoint(path, small_state(5))) == fingerprint(small_state())
        except CheckpointError as error:
            same = False
            verdict.check(False, f"schema {schema}: {error}")
        verdict.check(same, f"schema {schema} has other bits")
    newest = (folder / f"schema{SCHEMA}.safetensors").read_bytes()
    for schema in range(SCHEMA + 1, SCHEMA + 11):
        verdict.check(_is_refused(newest, schema), f"schema {schema} is not refused as a later one")
    return verdict


def _is_refused(data: bytes, schema: int) -> bool:
    def later(document, _):
        document["schema"], document["environment"]["fnopt"] = schema, "9.8.7"

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "later"
        path.write_bytes(resealed(data, later))
        try:
            fnopt.load_checkpoint(path, small_state())
        except CheckpointVersionError as error:
            return all(text in str(error) for text in ("made by fnopt 9.8.7", f"schema {schema}", "upgrade"))
        except CheckpointError:
            pass
    return False
