"""Settings of runs that train on pictures small enough for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from test_train import settings

from jr_dist.config import Config

IMAGES: dict[str, Any] = {
    "data__images": "files", "data__image_size": 32, "data__augment": "photo", "model__encoder": "resnet18",
    "model__encoder_weights": "none", "model__encoder_layers": "all",
}  # fmt: skip


def image_settings(dataset: Path, run: Path, **overrides: object) -> Config:
    """As `test_train.settings`, shown pictures of 32 pixels; plain SGD, whose checkpoints are a third of Adam's."""
    few = {"train__epochs": 2, "train__validate_every": 2, "train__optimizer": "sgd", "train__momentum": 0.0}
    return settings(dataset, run, **{**IMAGES, **few, **overrides})
