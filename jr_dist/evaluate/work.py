"""An evaluation as jobs that any process can do: one contender, one protocol, one block of targets each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jr_dist.blocks import Job
from jr_dist.data.resident_store import ResidentStore
from jr_dist.errors import InputError
from jr_dist.evaluate.measure import Contender, Rules, measure
from jr_dist.evaluate.methods import ARRAYS, FULL, Measured, TrainedModelLike
from jr_dist.evaluate.oracle import Cases, blocks
from jr_dist.evaluate.runs import Entrant, Ground, Load
from jr_dist.evaluate.views import is_picture
from jr_dist.geometry.observation import Observed, generator, observe, posed, rotations
from jr_dist.models import ido

MAX_CELLS = 1 << 23  # of a table of targets by sources; some ten such tables are in memory at once, 8 bytes a cell
MOST_TARGETS = 16  # of a job: what a kill costs, and what a rerun counts in
SCHEMA = 2  # of what is measured: a change makes the blocks of earlier evaluations anew


def jobs_of(grounds: Sequence[Ground], protocols: Sequence[str], rules: Rules, about: Mapping[str, Any]) -> list[Job]:
    """All jobs of a table, contender after contender so that a process keeps one run loaded.

    A job's name is a digest of all that its result depends on: `about` (dataset, split), the rules, the checkpoints,
    the targets; so results can be kept and a rerun does only what is missing.
    """
    jobs = []
    for ground in grounds:
        size = min(MOST_TARGETS, max(1, MAX_CELLS // len(ground.store.ids)))
        for entrant in ground.entrants:
            for protocol in protocols:
                for block in blocks(len(ground.where), size):
                    depends = {
                        "schema": [SCHEMA, ido.VERSION],
                        "about": dict(about),
                        "rules": asdict(rules),
                        "sources": list(ground.scope.categories),
                        "entrant": [entrant.name, entrant.seed, *entrant.identity],
                        "protocol": protocol,
                        "targets": [ground.target_ids[i] for i in block],
                        **({} if ground.views is None else {"pictures": ground.views.identity(protocol)}),
                    }
                    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:24]
                    task = {
                        "sources": list(ground.scope.categories),
                        "entrant": entrant.path,
                        "protocol": protocol,
                        "first": int(block[0]),
                        "last": int(block[-1]) + 1,
                        "depends": digest,
                    }
                    jobs.append(Job(digest, task, len(block) * len(ground.store.ids)))
    return jobs


@dataclass
class Measurer:
    """Does jobs: holds the databases, and the runs that it needed last."""

    grounds: Sequence[Ground]
    rules: Rules
    load: Load
    seed: int
    _loaded: dict[str, TrainedModelLike] = field(default_factory=dict)

    def __call__(self, task: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The results of one job as arrays (`unpack`); a run that gives what is not finite is named instead."""
        ground = next(g for g in self.grounds if list(g.scope.categories) == task["sources"])
        entrant = next(e for e in ground.entrants if e.path == task["entrant"])
        block = slice(task["first"], task["last"])
        ids, protocol, pictures = ground.target_ids[block], task["protocol"], None
        if is_picture(protocol):
            assert ground.views is not None, "runs that see pictures"
            pictures = ground.views.shown(range(len(ground.points))[block], ids, protocol, self.seed)
        views = seen(ground.points[block], ids, protocol, self.seed, pictures)
        try:
            found = measure(ground.store, self._contender(entrant), views, protocol, self.rules)
        except FloatingPointError as error:
            return {"failure": _text(f"run {entrant.path} can't be measured: {error}")}
        return pack(found)

    def _contender(self, entrant: Entrant) -> Contender:
        if entrant.path is None:
            return Contender(None, None)
        model = self._model(entrant.path, entrant.identity[0])
        deformer = model if model.has_deformation else None
        if deformer is None and entrant.deformer is not None:
            deformer = self._model(entrant.deformer, entrant.identity[1])
        return Contender(entrant.name, entrant.seed, model, deformer, entrant.fills_oracle)

    def _model(self, path: str, identity: str) -> TrainedModelLike:
        if path not in self._loaded:
            while len(self._loaded) > 1:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[path] = self.load(path)
        if self._loaded[path].identity != identity:
            raise InputError(
                f"run {path} has another best checkpoint than when this evaluation began; allowed is a finished run; "
                "evaluate again when its training has ended"
            )
        return self._loaded[path]


def make_measurer(grounds: Sequence[Ground], rules: Rules, load: Load, seed: int) -> Measurer:
    """What `run_jobs` calls in each process."""
    if rules.device != "cpu":
        grounds = [
            replace(ground, store=ResidentStore(ground.store, rules.device, num_points=rules.num_points))
            for ground in grounds
        ]
    return Measurer(grounds, rules, load, seed)


def seen(
    points: Tensor, ids: Sequence[str], protocol: str, seed: int, pictures: np.ndarray | None = None
) -> list[Cases]:
    """The targets `points` [B, N, 3] as `protocol` shows them, once in each pose that has to be tried.

    Which half-space or noise it is depends on the seed and the target's id alone. `pictures` [B, 3, S, S] are what a
    protocol of pictures shows.
    """
    if protocol == FULL or pictures is not None:
        shown = None if pictures is None else torch.from_numpy(pictures)
        return [Cases(points, points, np.ones(len(points)), shown)]
    clouds = points.numpy()
    shown = [
        observe(cloud, protocol, generator("evaluate", seed, name, protocol))
        for cloud, name in zip(clouds, ids, strict=True)
    ]
    return [_cases([posed(one, turn) for one in shown], clouds) for turn in rotations(protocol)]


def _cases(shown: Sequence[Observed], clouds: np.ndarray) -> Cases:
    truth = np.stack([one.seen_from_here(cloud) for one, cloud in zip(shown, clouds, strict=True)])
    observed = np.stack([one.points for one in shown])
    return Cases(torch.from_numpy(observed), torch.from_numpy(truth), np.array([one.scale for one in shown]))


# ---- results as arrays ----------------------------------------------------------------------------------------------


def pack(results: Sequence[Measured]) -> dict[str, np.ndarray]:
    """Results as named arrays; `unpack` gives them back."""
    heads, arrays = [], {}
    for i, one in enumerate(results):
        heads.append({"method": one.method, "seed": one.seed, "protocol": one.protocol, "fits": list(one.fits)})
        for name, values in one.fits.items():
            arrays[f"{i}/fits/{name}"] = values
        for name in ARRAYS:
            values = getattr(one, name)
            if values is not None:
                arrays[f"{i}/{name}"] = _texts(values) if values.dtype.kind == "U" else values
    return {"heads": _text(json.dumps(heads)), **arrays}


def unpack(arrays: Mapping[str, np.ndarray]) -> list[Measured]:
    """The results of a job."""
    results = []
    for i, head in enumerate(json.loads(bytes(arrays["heads"]))):
        fits = {name: arrays[f"{i}/fits/{name}"] for name in head["fits"]}
        result = Measured(head["method"], head["seed"], fits, head["protocol"])
        rest = {name: arrays[f"{i}/{name}"] for name in ARRAYS if f"{i}/{name}" in arrays}
        results.append(
            replace(result, **{name: _read_texts(v) if v.dtype == np.uint8 else v for name, v in rest.items()})
        )
    return results


def failure_in(arrays: Mapping[str, np.ndarray]) -> str | None:
    """Why a job has no results, or None."""
    return bytes(arrays["failure"]).decode() if "failure" in arrays else None


def _text(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).copy()


def _texts(values: np.ndarray) -> np.ndarray:
    return _text(json.dumps(values.tolist()))


def _read_texts(values: np.ndarray) -> np.ndarray:
    return np.asarray(json.loads(bytes(values)), dtype=str)
