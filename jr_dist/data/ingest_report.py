"""What an ingest tells: `ingest.json` and `contact_sheet.png` beside the tables, and a few lines for a
person.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jr_dist import storage
from jr_dist.data.file_parts import sensible
from jr_dist.data.manifest import SPLITS, Manifest, canonical_json
from jr_dist.data.render import contact_sheet, numbered_label
from jr_dist.data.table_reader import Dataset
from jr_dist.geometry.segmentation import MAX_PARTS

REPORT = "ingest.json"
CONTACT_SHEET = "contact_sheet.png"


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did with each file."""

    manifest: Manifest
    models: Mapping[str, Mapping[str, Any]]  # id -> "category", "num_parts", "part_names" and the provenance
    skipped: Mapping[str, str]  # file -> the reason

    @property
    def num_sensible(self) -> int:
        """Models of 2 to 16 parts of which none is nearly everything and none a speck."""
        return sum(sensible(model["part_area_share"]) for model in self.models.values())

    def summary(self) -> str:
        """A few lines for a person: counts, what was done that should be looked at, a line for each file left out."""
        counts = self.manifest.counts
        head = (
            f"{len(self.models)} of {len(self.models) + len(self.skipped)} models used: {counts['sources']} sources, "
            + ", ".join(f"{counts[split]} {split}" for split in SPLITS)
            + f"; {self.num_sensible} with 2 to 16 parts of sensible size"
        )
        left_out = (f"left out: {self.skipped[file]}" for file in sorted(self.skipped))
        return "\n".join([head, *self._too_few(), *self._turned(), *self._grouped(), *left_out])

    def _too_few(self) -> Iterator[str]:
        counts = self.manifest.counts
        if not (counts["train"] and counts["val"]):
            yield (
                f"nothing can be trained on this dataset, and so nothing fitted: `train` needs targets, but "
                f"{counts['train']} are in train and {counts['val']} in val; lower --num-sources, or add models until "
                "a category has three that are no source"
            )

    def _turned(self) -> Iterator[str]:
        """How many files were turned, by the axis that was up; guesses apart from what was said."""
        turned = Counter(
            ("up_axis_guessed" in model, model["up_axis"])
            for model in self.models.values()
            if model["up_axis"] != "y"
        )
        for (guessed, axis), count in sorted(turned.items()):
            why = "guessed by --up auto; where wrong, say it by --up or an index" if guessed else "by the index or --up"
            yield f"{_files(count)} turned from {axis} to y up ({why})"

    def _grouped(self) -> Iterator[str]:
        grouped = sum("grouped_from" in model for model in self.models.values())
        if grouped:
            yield (
                f"{_files(grouped)} had more than {MAX_PARTS} parts: similar and near ones were merged "
                f"({REPORT}: grouped_from)"
            )


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"


def write_report(
    root: str,
    models_folder: Path,
    models: Mapping[str, Mapping[str, Any]],
    roles: Mapping[str, str],
    skipped: Mapping[str, str],
    pictures: Mapping[str, np.ndarray],
) -> None:
    """`ingest.json`, one line a file, with the folder they lie in, and the contact sheet of the `pictures`
    (id -> (H, W, 4) uint8), if any.
    """
    filesystem, folder = storage.resolve(root)
    used = [{"id": name, "role": roles[name], **model} for name, model in sorted(models.items())]
    left_out = [{"file": file, "reason": skipped[file]} for file in sorted(skipped)]
    folder_of_models = canonical_json(str(models_folder.absolute()))
    text = f'{{"folder":{folder_of_models},\n"used":[\n{_lines(used)}\n],\n"left_out":[\n{_lines(left_out)}\n]}}\n'
    storage.write_bytes(filesystem, f"{folder}/{REPORT}", text.encode())
    if pictures:
        names = sorted(pictures)
        labels = [numbered_label(models[name]["num_parts"], name) for name in names]
        buffer = io.BytesIO()
        contact_sheet([pictures[name] for name in names], labels, columns=12).save(buffer, format="PNG")
        storage.write_bytes(filesystem, f"{folder}/{CONTACT_SHEET}", buffer.getvalue())


def ingested_from(dataset: Dataset) -> Path | None:
    """The folder that a dataset's models were ingested from, as `ingest.json` has it; None where that says nothing."""
    try:
        return Path(read_report(dataset.path)["folder"])
    except (OSError, ValueError, KeyError):
        return None


def read_report(path: str | Path) -> dict[str, Any]:
    """`ingest.json` of a dataset: "folder" that was ingested, "used" and "left_out", an entry a file."""
    filesystem, folder = storage.resolve(storage.as_location(path))
    return json.loads(storage.read_bytes(filesystem, f"{folder}/{REPORT}"))


def _lines(entries: Sequence[Mapping[str, Any]]) -> str:
    return ",\n".join(canonical_json(dict(entry)) for entry in entries)
