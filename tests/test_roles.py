"""Which of the ingested models are sources, and how the rest is split."""

from __future__ import annotations

import pytest

from jr_dist.data.roles import choose_sources, split_rest


def some_models(**counts):
    return {
        f"{category}-{i}": {"category": category, "num_parts": 4}
        for category, count in counts.items()
        for i in range(count)
    }


@pytest.mark.parametrize(("total", "expected"), [(1, 1), (3, 1), (10, 3), (100, 30), (247, 50), (5000, 500)])
def test_how_many_sources_by_default(total, expected):
    assert len(choose_sources(some_models(chair=total), None, 0)) == expected


def test_every_category_gets_its_share_of_sources():
    models = some_models(chair=60, table=30, bed=2)
    chosen = choose_sources(models, 9, 0)
    counts = {name: sum(models[model]["category"] == name for model in chosen) for name in ("chair", "table", "bed")}
    assert counts == {"chair": 5, "table": 3, "bed": 1}
    assert len(choose_sources(models, 92, 0)) == 92
    assert len(choose_sources(models, 2, 0)) == 2


def test_models_of_one_part_are_sources_only_where_nothing_else_is():
    models = some_models(chair=6)
    for name in list(models)[:4]:
        models[name]["num_parts"] = 1
    assert set(choose_sources(models, 2, 0)) == set(list(models)[4:])
    assert len(choose_sources(models, 3, 0)) == 3


def test_new_models_move_few_roles():
    before = choose_sources(some_models(chair=100), 20, 3)
    after = choose_sources(some_models(chair=101), 20, 3)
    assert len(set(before) & set(after)) >= 19
    assert choose_sources(some_models(chair=100), 20, 4) != before


def test_the_rest_is_split_within_each_category():
    models = some_models(chair=40, bed=5)
    sources = choose_sources(models, 10, 0)
    splits = split_rest(models, sources, 0)
    assert sorted([*sources, *(name for names in splits.values() for name in names)]) == sorted(models)
    for names in splits.values():
        assert {models[name]["category"] for name in names} == {"chair", "bed"}
