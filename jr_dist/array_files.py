"""Named arrays in a file with its hash: safetensors, written and verified."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jr_dist.errors import InputError
from jr_dist.locations import AnyPath, StoreAwayError


def write_arrays(path: AnyPath, arrays: Mapping[str, np.ndarray]) -> str:
    """Write the arrays; returns the file's SHA-256, by which `read_arrays` knows it again."""
    content = save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_arrays(path: AnyPath, digest: str) -> dict[str, np.ndarray]:
    """The arrays of a file. Raises `InputError` naming it where it is missing or not the one that was written."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("its hash differs from the manifest's")
        return load(content)
    except (StoreAwayError, InputError):
        raise  # they say nothing of the file
    except (OSError, ValueError, SafetensorError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else error
        raise InputError(
            f"checkpoint file {path} is damaged or missing ({reason}); allowed is the file as it was saved; restore it "
            "from a copy or resume from another checkpoint"
        ) from None
