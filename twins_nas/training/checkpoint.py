"""Checkpoints of a training, and weights as safetensors; whole or absent."""

from __future__ import annotations

import errno
import pickle
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from twins_nas.errors import UserError
from twins_nas.files import told, write_atomically

ROOM = 1 << 20
DAMAGED = (
    *(pickle.UnpicklingError, EOFError, RuntimeError, AttributeError, AssertionError),
    *(LookupError, TypeError, ValueError, struct.error),
)
"""What torch raises for files that are cut short or something else; old formats have no checks."""


def _saved(save: Callable[[Path], object]) -> Callable[[Path], None]:
    """Makes a system's error of those that torch and safetensors raise on a full disk."""

    def write(path: Path) -> None:
        try:
            save(path)
        except (RuntimeError, SafetensorError) as error:
            free = shutil.disk_usage(path.parent).free
            if free < ROOM or "No space" in str(error):
                raise OSError(errno.ENOSPC, "no space left on device") from error
            raise OSError(errno.EIO, f"could not be written ({error})") from error

    return write


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a checkpoint of tensors and plain values.

    Raises:
        UserError: the file cannot be written; the last checkpoint stays whole.
    """
    write_atomically(path, _saved(lambda temporary: torch.save(dict(state), temporary)))


def load_foreign(path: Path) -> dict[str, Tensor]:
    """The tensors of others' weights: safetensors, or a pickle of tensors and plain values only.

    Those below `model` or `state_dict`, where the file has them there.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    if path.suffix == ".safetensors":
        return load_weights(path)[0]
    try:
        with told(path):
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("model", state.get("state_dict", state))
        if all(isinstance(value, Tensor) for value in state.values()):
            return dict(state)
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"{path} is no file of weights, or is damaged.") from error
    raise UserError(f"{path} holds more than weights.")


def load_checkpoint(path: Path, identity: str) -> dict[str, Any]:
    """Reads a checkpoint (tensors and plain values only: nothing in it is executed).

    Raises:
        UserError: not readable, or made by another training (`identity`: space, recipe, data).
    """
    try:
        with told(path):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = state["identity"]
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(
            f"{path} is no checkpoint of a training, or is damaged; delete it to start afresh."
        ) from error
    if found != identity:
        raise UserError(
            f"{path} belongs to another training (another space, recipe, data set or seed); give"
            " another --name, or delete that run."
        )
    return state


def save_weights(path: Path, model: torch.nn.Module, metadata: Mapping[str, str]) -> None:
    """Writes a module's weights as safetensors.

    Raises:
        UserError: the file cannot be written.
    """
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    write_atomically(path, _saved(lambda temporary: save_file(tensors, temporary, dict(metadata))))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights by name, and the metadata that was written with them.

    Raises:
        UserError: the file is missing, cut short, or no safetensors file.
    """
    try:
        with told(path), safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file, or is damaged ({error}).") from error
