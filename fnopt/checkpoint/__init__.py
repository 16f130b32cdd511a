"""Checkpoints: one safetensors file by name, strict, atomic and durable, in which no bit can change unnoticed.

file        save, load, read_info                names      the tree of a state as flat names
document    the JSON document in the file        container  the safetensors container
migrate     from each schema to the next         reader     one pass that reads and hashes
mismatch    all that differs from `like`         accept     what is looked for in the values
fs          the system calls of a write, which tests replace by ones that fail

manager     the last and the best of a run       shelf      the files of a folder, and which may go
lock        one writer in a folder               process    whose a file is, and whether that one is dead
background  a save beside the caller

torch_export, torch_import     torch's layout, both ways     torch_memories  what torch keeps of each parameter
torch_archive                  a torch file, checked before it is loaded
"""

from .file import load_checkpoint as load_checkpoint
from .file import read_info as read_info
from .file import save_checkpoint as save_checkpoint
from .manager import CheckpointManager as CheckpointManager
from .torch_export import export_torch as export_torch
