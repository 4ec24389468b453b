"""What `fit` searches: a trained run with the sources of its dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from jr_dist.config import IdoConfig
from jr_dist.data.dataset import Dataset, open_dataset
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.locations import AnyPath
from jr_dist.train.methods.registry import METHODS
from jr_dist.train.trained import load_run


class Matcher(Protocol):
    """What a trained run offers here (train/trained.py); T targets, S sources, K candidates, P parts.

    Targets are points (T, N, 3), or pictures (T, 3, H, W) uint8 where the run was trained on them.
    """

    def retrieval_distances(self, targets: Tensor, /) -> Tensor:
        """Squared d_R (T, S) of targets to every source; the least is the best."""
        ...

    def deform(self, targets: Tensor, /, rows: Tensor, store: Any) -> tuple[Tensor, Tensor]:
        """(centre, half_extent), each (T, K, P, 3), of sources `rows` (T, K) fitted to targets."""
        ...


@dataclass(frozen=True)
class Database:
    """A trained run with the sources it may retrieve."""

    run: str
    model: Matcher
    store: SourceStore
    rows: np.ndarray  # [R] int64, the sources allowed
    num_points: int  # of a source in the chamfer: as asked for, or what the dataset has where that is fewer
    connectivity: bool = True  # whether the run keeps joints closed; refinement then does as well
    deforms: bool = True  # whether the model deforms, or retrieves alone
    picture_size: int | None = None  # pixels of a picture's side where the run was trained on pictures, not points
    trained_on_parts: bool = False  # whether training showed it shapes in part
    ido: IdoConfig = field(default_factory=IdoConfig)


def open_database(
    run: str | AnyPath,
    *,
    data: str | AnyPath | None = None,
    category: str | None = None,
    num_points: int = 2048,
    top_k: int = 1,
    refine: bool = False,
) -> Database:
    """The run's model with the sources of its dataset, or of `data` where that has moved.

    Raises `InputError` where the run learnt no retrieval, or no deformation and there is to be no refinement either,
    where the dataset is not the run's, the category is unknown, or `top_k` too large.
    """
    model = load_run(run)
    if not model.has_retrieval:
        able = ", ".join(name for name, method in METHODS.items() if method.trains_retrieval)
        raise InputError(
            f"run {run} was trained by the method {model.method}, which learns no retrieval; "
            f"one of {able} is allowed; name such a run"
        )
    if not model.has_deformation and model.takes_pictures:
        raise InputError(
            f"run {run} was trained by the method {model.method}, which learns no deformation; allowed with photos is "
            "one that does; name one, as ours"
        )
    if not (model.has_deformation or refine):
        raise InputError(
            f"run {run} was trained by the method {model.method}, which learns no deformation; "
            "it is allowed with refinement, which deforms by itself; add --refine or name another run"
        )
    dataset = _open_dataset(run, data, model.config.data.path)
    if dataset.hash != model.dataset_hash:
        raise InputError(
            f"dataset {dataset.path} (hash {dataset.hash[:12]}) is not the one that run {run} was trained on "
            f"({model.dataset_hash[:12]}); the same one is needed; name it with --data"
        )
    num_points = min(num_points, dataset.num_points)
    store = SourceStore.open(dataset, categories=model.config.data.categories, num_points=num_points)
    assert tuple(store.ids) == tuple(model.source_ids), "one dataset, one order of sources"
    rows = allowed_rows(store, category, top_k)
    return Database(
        str(run),
        model,
        store,
        rows,
        num_points,
        connectivity=model.config.model.connectivity,
        deforms=model.has_deformation,
        picture_size=model.config.data.image_size if model.takes_pictures else None,
        trained_on_parts=model.config.data.observed == "partial",
        ido=model.config.ido,
    )


def _open_dataset(run: str | AnyPath, data: str | AnyPath | None, trained_on: str) -> Dataset:
    try:
        return open_dataset(data or trained_on)
    except InputError as error:
        if data is not None:
            raise
        raise InputError(f"the dataset of run {run}: {error}; where it has moved, name it with --data") from error


def allowed_rows(store: SourceStore, category: str | None, top_k: int) -> np.ndarray:
    """Rows [R] int64 of the sources of `category` (None: all); `InputError` for fewer than `top_k`."""
    known = sorted(set(store.categories))
    if category is not None and category not in known:
        raise InputError(f"category is {category!r}; allowed are {', '.join(known)}; choose one of these or none")
    rows = np.array([row for row, name in enumerate(store.categories) if category in (None, name)], np.int64)
    if top_k > len(rows):
        raise InputError(
            f"top-k is {top_k}; the database has {len(rows)} sources"
            + (f" of category {category}" if category else "")
            + f"; ask for at most {len(rows)}"
        )
    return rows
