"""The model of a step (benchmarks/step_model.py): limits, units, and that a fit finds rates that were planted."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest

from jr_dist.bank.layout import BankLayout
from jr_dist.config import load_config
from jr_dist.train.dry_run import code_bytes, proposal_bytes

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import scaling
from step_measure import HERE, read, trials, write
from step_model import (
    STAGES,
    Cluster,
    Observed,
    Rates,
    Shape,
    bottleneck,
    errors,
    expected_maximum,
    fit,
    ring_bytes,
    stages,
    step_seconds,
    unique_sources,
)

ROOT = Path(__file__).parent.parent
APART = Cluster()
BASE = Shape(workers=4, shards=2, dense_bytes=5_000_000)


def observed(shape: Shape, rates: Rates, cluster: Cluster = HERE, noise: float = 0.0, seed: int = 0) -> Observed:
    """What the model itself says, each stage off by some share."""
    off = np.random.default_rng(seed).normal(1.0, noise, len(STAGES)) if noise else np.ones(len(STAGES))
    found = {name: value * factor for (name, value), factor in zip(stages(shape, rates, cluster).items(), off)}
    return Observed(shape, found, sum(found.values()))


def planted_shapes() -> list[Shape]:
    """Those that are measured."""
    return [replace(trial.shape, dense_bytes=1_000_000 + 2_000 * trial.target_code) for trial in trials()]


# ---- counts ------------------------------------------------------------------------------------


def test_bytes_are_those_of_the_dry_run():
    config = load_config(None, {"data.path": "-", "run.path": "-"})
    shape = Shape(sources=10**9, shards=3)
    layout = BankLayout((8,) * 1000, config.model.global_code, config.model.part_code, config.retrieval.embedding)
    assert shape.code_bytes == pytest.approx(code_bytes(layout, 160), rel=1e-6), "of 10^9 none is drawn twice"
    assert shape.proposal_bytes == proposal_bytes(layout, 3, 16, 10)


def test_unique_sources_of_all_and_of_many_and_by_drawing():
    assert unique_sources(10, 16, 10) == 10
    assert unique_sources(10**12, 16, 10) == pytest.approx(160, rel=1e-3)
    rng = np.random.default_rng(0)
    drawn = [len(np.unique([rng.permutation(60)[:10] for _ in range(8)])) for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(unique_sources(60, 8, 10), rel=0.005)


def test_expected_maximum_is_that_of_the_textbooks():
    assert expected_maximum(1) == pytest.approx(0, abs=1e-9)
    assert expected_maximum(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-6)
    assert expected_maximum(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-6)
    rng = np.random.default_rng(0)
    assert expected_maximum(64) == pytest.approx(rng.standard_normal((40_000, 64)).max(1).mean(), abs=0.01)


def test_a_ring_sends_nothing_alone_and_twice_the_gradients_at_most():
    assert ring_bytes(100, 1) == 0
    assert ring_bytes(100, 2) == 100
    assert ring_bytes(100, 10**6) == pytest.approx(200, rel=1e-5)


# ---- stages ------------------------------------------------------------------------------------


def test_one_worker_waits_for_nobody():
    assert stages(replace(BASE, workers=1), Rates(), Cluster(latency_ms=5, network_mb_s=10))["all-reduce"] == 0


def test_units():
    """Each rate alone, in seconds reckoned by hand."""
    nothing = Rates(**dict.fromkeys((each.name for each in fields(Rates)), 0.0))
    shape = Shape(workers=2, shards=4, batch=32, candidates=10, sources=1000, parts=8, dense_bytes=8_000_000)
    unique = 1000 * (1 - 0.99**32)
    row = 4 * (256 + 256 + 1 + 8 * 32)
    alone = {
        "step_ms": ("compute", 1e-3),
        "target_ms": ("compute", 32e-3),
        "pair_ms": ("compute", 320e-3),
        "source_ms": ("compute", unique * 1e-3),
        "dense_ns": ("compute", 8_000_000 * 1e-9),
        "send_ms": ("proposals", 4e-3),
        "ask_ms": ("pull", 2e-3),
        "scan_ns": ("proposals", 2 * 2 * 250 * 256 * 1e-9),  # ranks, groups of 16, sources of a shard, dimensions
        "pull_ns": ("pull", 2 * unique / 4 * row * 1e-9),
        "push_ns": ("push", 2 * unique / 4 * row * 1e-9),
        "reduce_ms": ("all-reduce", 1e-3),
        "reduce_ns": ("all-reduce", 8_000_000 * 1e-9),
        "encode_ms": ("refresh", 1000 / 2 / 50 * 1e-3),
    }
    for name, (stage, seconds) in alone.items():
        assert stages(shape, replace(nothing, **{name: 1.0}), APART)[stage] == pytest.approx(seconds), name
    slowed = stages(shape, replace(nothing, pair_ms=1.0, sharing=0.5), Cluster(sharing_workers=2))
    assert slowed["compute"] == pytest.approx(480e-3)
    uneven = stages(shape, replace(nothing, pair_ms=1.0, jitter=0.1), APART)
    assert uneven["all-reduce"] == pytest.approx(32e-3 / math.sqrt(math.pi))


def test_a_network_adds_latency_and_bytes():
    near = stages(BASE, Rates(), APART)
    far = stages(BASE, Rates(), Cluster(latency_ms=3))
    slow = stages(BASE, Rates(), Cluster(network_mb_s=100))
    assert far["pull"] - near["pull"] == pytest.approx(6e-3)
    assert far["all-reduce"] - near["all-reduce"] == pytest.approx(2 * 3 * 3e-3), "a ring of 4: 6 messages in turn"
    assert slow["pull"] - near["pull"] == pytest.approx(2 * BASE.code_bytes / 100e6), "a shard has twice a worker's"
    assert slow["all-reduce"] - near["all-reduce"] == pytest.approx(ring_bytes(5_000_000, 4) / 100e6)


def test_shards_that_share_a_processor_work_in_turn():
    rates = replace(Rates(), send_ms=0.0, ask_ms=0.0)
    one, four = (replace(BASE, shards=shards, sources=65536) for shards in (1, 4))
    own = stages(four, rates, APART)["proposals"]
    assert own == pytest.approx(stages(one, rates, APART)["proposals"] / 4)
    assert stages(four, rates, Cluster(shard_processors=2))["proposals"] == pytest.approx(2 * own)


@pytest.mark.parametrize(
    "name", ["workers", "sources", "batch", "candidates", "embedding", "global_code", "dense_bytes"]
)
@pytest.mark.parametrize("lookahead", [0, 1])
def test_more_of_anything_takes_no_less(name, lookahead):
    """But for the refresh, which more workers share."""
    shape = replace(BASE, lookahead=lookahead, refresh_steps=10**9)
    sizes = [replace(shape, **{name: getattr(shape, name) * factor}) for factor in (1, 2, 4, 8)]
    for cluster in (APART, HERE, Cluster(network_mb_s=100, latency_ms=1)):
        seconds = [step_seconds(each, Rates(), cluster) for each in sizes]
        assert seconds == sorted(seconds)
        assert seconds[0] < seconds[-1]


def test_lookahead_hides_the_scan_and_never_costs():
    for sources in (1000, 10**6):
        for workers in (1, 2, 16):
            shape = replace(BASE, sources=sources, workers=workers)
            plain, ahead = (stages(replace(shape, lookahead=own), Rates(), APART) for own in (0, 1))
            assert ahead["proposals"] == pytest.approx(max(0.0, plain["proposals"] - plain["compute"]))
            assert sum(ahead.values()) <= sum(plain.values()) + 1e-12


def test_what_comes_first():
    given = Cluster(compute_ms=200, encode_ms=0.3, latency_ms=1, network_mb_s=1000)
    assert bottleneck(stages(replace(BASE, workers=64, sources=1000), Rates(), given)) == "all-reduce"
    assert bottleneck(stages(replace(BASE, workers=1, sources=10**6), Rates(), given)) == "refresh"
    rare = replace(BASE, workers=4, shards=1, sources=10**6, refresh_steps=10**6)
    assert bottleneck(stages(rare, Rates(), given)) == "proposals"


# ---- fitting -----------------------------------------------------------------------------------

PLANTED = Rates(
    step_ms=6, target_ms=0.9, pair_ms=0.7, source_ms=0.8, dense_ns=2, sharing=0.2, send_ms=0.6, ask_ms=1.7,
    scan_ns=0.25, pull_ns=6, push_ns=40, reduce_ms=2, reduce_ns=3, jitter=0.05, encode_ms=0.4,
)  # fmt: skip


def test_a_fit_recovers_planted_rates():
    found = fit([observed(shape, PLANTED) for shape in planted_shapes()], HERE)
    for name, value in asdict(PLANTED).items():
        assert getattr(found, name) == pytest.approx(value, rel=0.05), name


def test_a_fit_on_some_noisy_runs_foretells_the_others():
    shapes, used = planted_shapes(), [trial.fitted for trial in trials()]
    noisy = [observed(shape, PLANTED, noise=0.04, seed=number) for number, shape in enumerate(shapes)]
    found = fit([each for each, use in zip(noisy, used, strict=True) if use], HERE)
    others = [observed(shape, PLANTED) for shape, use in zip(shapes, used, strict=True) if not use]
    assert np.abs(errors(others, found, HERE)).max() < 0.05


def test_one_run_that_was_held_up_does_not_spoil_a_fit():
    runs = [observed(shape, PLANTED) for shape in planted_shapes()]
    held = replace(
        runs[0], stages={name: 3 * seconds for name, seconds in runs[0].stages.items()}, step=3 * runs[0].step
    )
    found = fit([held, *runs[1:]], HERE)
    assert np.abs(errors(runs[1:], found, HERE)).max() < 0.03


def test_what_was_measured_is_read_as_it_was_written(tmp_path):
    runs = [observed(replace(shape, dense_bytes=7), PLANTED) for shape in planted_shapes()]
    write(tmp_path / "steps.csv", trials(), runs)
    found, used = read(tmp_path / "steps.csv")
    assert [each.shape for each in found] == [each.shape for each in runs]
    assert used == [trial.fitted for trial in trials()]
    assert [each.step for each in found] == pytest.approx([each.step for each in runs], abs=1e-6)
    assert [each.stages for each in found] == [pytest.approx(each.stages, abs=1e-6) for each in runs]


@pytest.mark.slow
def test_the_tables_of_scaling_are_what_its_command_prints():
    """So that they follow what was measured: docs/results/benchmarks/bank.csv and docs/results/steps.csv."""
    results = ROOT / "docs" / "results"
    measured = scaling.read(results / "benchmarks" / "bank.csv", results / "steps.csv")
    text = (ROOT / "docs" / "scaling.md").read_text()
    assert scaling.placed(text, scaling.tables(measured, scaling.Assumed())) == text
