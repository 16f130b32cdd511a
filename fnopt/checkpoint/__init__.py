"""Checkpoints: one safetensors file by name, strict, atomic and durable, in which no bit can change unnoticed.

file        save, load, read_info                names      the tree of a state as flat names
document    the JSON document in the file        container  the safetensors container
reader      one pass that reads and hashes       mismatch   all that differs from `like`, in one error
fs          the system calls of a write, which tests replace by ones that fail
"""

from .file import load_checkpoint as load_checkpoint
from .file import read_info as read_info
from .file import save_checkpoint as save_checkpoint
