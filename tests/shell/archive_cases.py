"""What the tests of hostile torch files share: archives written again, with other entries or pickles."""

import io
import pickle
import zipfile

import pytest
from checkpoint_cases import fields_of
from torch_file_cases import net, trained

import fnopt
from fnopt import load_checkpoint

OPTIMIZER = fnopt.AdamW(lr=0.1)
LIKE = trained(OPTIMIZER, net(1), 0)


def rezipped(data, change=lambda entries: None, compression=zipfile.ZIP_STORED):
    """The same archive written by zipfile, after `change` of its entries (a dict by name)."""
    source = zipfile.ZipFile(io.BytesIO(data))
    entries = {name: source.read(name) for name in source.namelist()}
    change(entries)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target.getvalue()


def with_pickle(data, pickled):
    """The same archive with another pickle."""

    def change(entries):
        (name,) = [name for name in entries if name.endswith("/data.pkl")]
        entries[name] = pickled(entries[name]) if callable(pickled) else pickled

    return rezipped(data, change)


class Payload:
    """Runs a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def pickled(content):
    """As torch.save does it, with protocol 2."""
    return pickle.dumps(content, protocol=2)


def refused(path, data, error, text):
    """The file is refused with this error, whose fields are filled."""
    path.write_bytes(data)
    with pytest.raises(error, match=text) as caught:
        load_checkpoint(path, like=LIKE)
    assert type(caught.value) is error
    assert caught.value.path == str(path)
    assert all(fields_of(caught.value)), fields_of(caught.value)
    assert str(caught.value).count("\n") == 0
