"""The file an ingested model came from, read again as it was then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jr_dist.data.file_parts import find_parts
from jr_dist.data.mesh_files import LoadedFile, load_mesh_file
from jr_dist.data.part_mesh import PartMesh, transformed
from jr_dist.data.partnet import load_partnet
from jr_dist.errors import InputError


def model_path(folder: Path, provenance: Mapping[str, Any]) -> Path:
    """Where the file of a model should be, below the folder that was ingested."""
    path = folder / provenance["file"]
    # A PartNet model that was ingested alone lies in the folder itself and bears its name.
    return folder if provenance.get("format") == "partnet" and not path.exists() else path


def load_again(folder: Path, provenance: Mapping[str, Any]) -> PartMesh:
    """The parted, upright mesh of an ingested model, as its provenance tells. Raises `InputError` as reading does."""
    path = model_path(folder, provenance)
    if not path.exists():
        raise InputError(f"{path} is gone; put the model back, or name the folder it was moved to by --models")
    up = provenance["up_axis"]
    if provenance["format"] == "partnet":
        loaded = load_partnet(path, up=up)
    else:
        rotation = np.array(provenance["rotation"]) if "rotation" in provenance else None
        loaded = load_mesh_file(path, up=up, rotation=rotation)
    return find_parts(_to_size(loaded, provenance), provenance["parts_from"])[0]


def _to_size(loaded: LoadedFile, provenance: Mapping[str, Any]) -> LoadedFile:
    scale = provenance.get("scale", [1.0, 1.0, 1.0])
    if scale == [1.0, 1.0, 1.0]:
        return loaded
    return replace(loaded, mesh=transformed(loaded.mesh, np.diag([*scale, 1.0])))
