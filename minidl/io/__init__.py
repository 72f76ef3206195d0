"""Files: checkpoints as safetensors or npz that are read without trust and written whole or not at all."""

from minidl.io.atomic import atomic_write
from minidl.io.checkpoint import CheckpointError, load, save

__all__ = ["CheckpointError", "atomic_write", "load", "save"]
