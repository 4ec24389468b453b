"""Which models of an ingest become sources, and which split each of the others falls into."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from jr_dist.data.dataset import split_targets
from jr_dist.data.manifest import SPLITS
from jr_dist.errors import InputError

_SHARE, _AT_LEAST, _AT_MOST_SHARE = 0.1, 50, 0.3


def choose_sources(models: Mapping[str, Mapping[str, Any]], num_sources: int | None, seed: int) -> list[str]:
    """Ids of the models that become sources, sorted. `models`: id -> {"category", "num_parts", ...}.

    Without `num_sources`: 10 % as in the paper, but 50 where that is fewer, and never more than 30 % (at
    least 1). Each category gets its share, at least one while there is enough, by a hash of seed and id:
    the order of files plays no part, and few choices change when files are added. Models of one part are
    taken only where a category has nothing better: a single box can be a source, but hardly a good one.
    Raises `InputError` for more sources than models.
    """
    if num_sources is None:
        wanted = max(_AT_LEAST, round(_SHARE * len(models)))
        num_sources = max(1, min(wanted, int(_AT_MOST_SHARE * len(models))))
    if num_sources > len(models):
        raise InputError(
            f"num_sources is {num_sources}, but only {len(models)} models can be used; allowed is 1 to {len(models)}; "
            "lower --num-sources or add models"
        )
    ranked = sorted(models, key=lambda name: (models[name]["num_parts"] < 2, _hash(seed, name), name))
    by_category = _by_category(models, ranked)
    shares = _shares({category: len(names) for category, names in by_category.items()}, num_sources)
    return sorted(name for category, names in by_category.items() for name in names[: shares[category]])


def split_rest(models: Mapping[str, Mapping[str, Any]], sources: Iterable[str], seed: int) -> dict[str, list[str]]:
    """80/10/10 of the models that are no sources, in each category by itself: the paper's tables are by
    category.
    """
    rest = sorted(set(models) - set(sources))
    splits = [split_targets(names, seed) for names in _by_category(models, rest).values()]
    return {split: sorted(name for each in splits for name in each[split]) for split in SPLITS}


def _by_category(models: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[models[name]["category"]].append(name)
    return dict(found)


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()


def _shares(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """`total` shared out by size: each next one to whom most is missing; one each first, while there is
    enough.
    """
    shares = dict.fromkeys(sizes, 0)
    names = sorted(sizes, key=lambda name: (-sizes[name], name))
    everything = sum(sizes.values())
    for _ in range(total):
        free = [name for name in names if shares[name] < sizes[name]]
        wanting = [name for name in free if shares[name] == 0] or free
        taken = max(wanting, key=lambda name: sizes[name] / everything * total - shares[name])
        shares[taken] += 1
    return shares
