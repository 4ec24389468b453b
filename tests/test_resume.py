"""Going on: after a kill -9 of the whole tree, on other numbers of workers and shards, and what is refused instead."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from failure_cases import (
    STEPS_PER_EPOCH,
    assert_equal_runs,
    away_from_ray,
    bytes_of,
    kill_tree,
    on_shards,
    reasons_of,
    struck_by,
)
from test_train import arrays_of, settings

from jr_dist.bank.client import BankClient
from jr_dist.config import Config
from jr_dist.data.dataset import open_dataset
from jr_dist.data.source_store import SourceStore
from jr_dist.data.synthesize.generate import synthesize
from jr_dist.errors import InputError
from jr_dist.train.checkpoint import MANIFEST, load_checkpoint, restore, save_checkpoint, saved_step
from jr_dist.train.group import Group
from jr_dist.train.run_directory import LAST, checkpoint_path, claim
from jr_dist.train.state import new_state
from jr_dist.train.trainer import train

EPOCHS = 6
PATIENCE = 600  # seconds; on a busy machine Ray alone takes a minute to start


def here(dataset: Path, run: Path, **overrides: object) -> Config:
    """A run in this process whose bank has six blocks in two shards."""
    fixed = {"train__epochs": 4, "bank__num_shards": 2, "bank__block_size": 2, "bank__lookahead": 1}
    return settings(dataset, run, **{**fixed, **overrides})


@pytest.fixture(scope="module")
def half_way(tiny_dataset, tmp_path_factory):
    """The folder of a run of four epochs that was interrupted in the third."""
    run = tmp_path_factory.mktemp("half way") / "run"
    saves, save = [], BankClient.save

    def interrupted(bank: BankClient, folder: Path) -> dict[str, str]:
        saves.append(folder)
        if len(saves) == 3:
            raise KeyboardInterrupt
        return save(bank, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BankClient, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(here(tiny_dataset, run))
    return run


@pytest.fixture
def copied(half_way, tiny_dataset, tmp_path):
    """The same run at a place of its own."""
    run = tmp_path / "run"
    shutil.copytree(half_way, run, symlinks=True)
    return run


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


FILES = [f"{name}.safetensors" for name in ("bank-000000", "bank-000005", "networks", "optimiser", "drawn")]


@pytest.mark.parametrize(("damage", "file"), [
    *((flip, file) for file in [*FILES, "manifest.json"]),
    *((cut_short, file) for file in [*FILES, "manifest.json"]),
    *((os.unlink, file) for file in [*FILES, "manifest.json"]),
])  # fmt: skip
def test_a_damaged_checkpoint_is_named_and_nothing_is_overwritten(copied, tiny_dataset, damage, file):
    damage(checkpoint_path(copied, LAST) / file)
    before = bytes_of(copied)
    with pytest.raises(InputError) as refusal:
        train(here(tiny_dataset, copied))
    message = str(refusal.value)
    assert file in message and "allowed is" in message and "\n" not in message
    assert bytes_of(copied) == before


@pytest.mark.parametrize(("overrides", "said"), [
    ({"model__global_code": 20}, r"model\.global_code 16, now it is 20; allowed is the same value"),
    ({"model__part_code": 4}, r"model\.part_code 8, now it is 4"),
    ({"retrieval__embedding": 8}, r"retrieval\.embedding 16, now it is 8"),
    ({"bank__block_size": 3}, r"bank\.block_size 2, now it is 3"),
    ({"bank__num_shards": 7}, r"bank\.num_shards is 7.*6 block"),
    ({"train__num_workers": 2}, r"train\.batch_size times train\.num_workers 8, now it is 16"),
    ({"train__num_workers": 2, "train__batch_size": 4, "bank__num_shards": 7}, r"bank\.num_shards is 7.*6 block"),
    ({"train__seed": 1}, r"train\.seed 0, now it is 1"),
])  # fmt: skip
def test_other_settings_are_named_and_nothing_is_overwritten(copied, tiny_dataset, overrides, said):
    before = bytes_of(copied), reasons_of(copied)
    with pytest.raises(InputError, match=said):
        train(here(tiny_dataset, copied, **overrides))
    assert (bytes_of(copied), reasons_of(copied)) == before


def by_another_release(run: Path, of_train: Callable[[dict[str, Any]], object]) -> None:
    """Its last checkpoint, as it was written where there were other settings of training."""
    path = checkpoint_path(run, LAST) / MANIFEST
    manifest = json.loads(path.read_text())
    of_train(manifest["config"]["train"])
    del manifest["sha256"]
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest))


def test_a_run_from_before_there_was_a_setting_goes_on_with_its_default(copied, tiny_dataset):
    by_another_release(copied, lambda settings: settings.pop("precision"))
    with pytest.raises(InputError, match=r"train\.precision float32, now it is bfloat16; allowed is the same value"):
        train(here(tiny_dataset, copied, train__precision="bfloat16"))
    step = saved_step(copied)
    train(here(tiny_dataset, copied))
    assert saved_step(copied) > step


def test_a_run_with_a_setting_that_is_gone_is_refused(copied, tiny_dataset):
    by_another_release(copied, lambda settings: settings.update(gone=3))
    with pytest.raises(InputError, match=r"was trained with train\.gone 3, now it is None"):
        train(here(tiny_dataset, copied))


@pytest.mark.parametrize("num_sources", [12, 13], ids=["other models", "one more source"])
def test_a_database_that_changed_is_named_and_nothing_is_overwritten(copied, tmp_path, num_sources):
    changed = tmp_path / "dataset"
    categories = ("chair", "table", "cabinet")
    synthesize(
        changed, num_sources=num_sources, num_targets=30, categories=categories, seed=13 - num_sources, num_points=256
    )
    before = bytes_of(copied), reasons_of(copied)
    with pytest.raises(
        InputError, match=r"another dataset \(hash [0-9a-f]{12}, this one has [0-9a-f]{12}\); allowed is the same"
    ):
        train(here(changed, copied))
    assert (bytes_of(copied), reasons_of(copied)) == before


@pytest.mark.parametrize("num_shards", [1, 2, 3, 6])
def test_any_number_of_shards_takes_up_what_others_saved_to_the_bit(half_way, tiny_dataset, tmp_path, num_shards):
    dataset = open_dataset(tiny_dataset)
    checkpoint = load_checkpoint(checkpoint_path(half_way, LAST))
    run = tmp_path / "run"
    state = new_state(
        here(tiny_dataset, run, bank__num_shards=num_shards),
        SourceStore.open(dataset),
        Group(),
        incarnation=claim(run, "test"),
    )
    restore(state, checkpoint, dataset_hash=dataset.hash)
    save_checkpoint(run, [LAST], state, dataset_hash=dataset.hash)
    again = load_checkpoint(checkpoint_path(run, LAST))
    assert again.hashes == checkpoint.hashes and len(again.hashes) == 9
    assert {**again.manifest, "config": 0, "start": 0} == {**checkpoint.manifest, "config": 0, "start": 0}


def test_an_interrupted_run_goes_on_to_the_bits_of_one_that_was_not(copied, tiny_dataset, tmp_path):
    train(here(tiny_dataset, copied))
    train(here(tiny_dataset, tmp_path / "straight"))
    first, second = arrays_of(copied), arrays_of(tmp_path / "straight")
    assert first.keys() == second.keys()
    assert [name for name in first if not np.array_equal(first[name], second[name])] == []


# ---- with Ray --------------------------------------------------------------------------------------------------------


def in_a_tree_of_its_own(config: Config, mark: str) -> tuple[subprocess.Popen[bytes], Path]:
    """`jr-dist train --resume auto` with a Ray of its own, all of whose processes carry the mark; and what it says."""
    file, said = (Path(f"{config.run.path}.{mark}.{suffix}") for suffix in ("yaml", "txt"))
    file.write_text(config.to_yaml())
    with said.open("wb") as out:
        words = [sys.executable, "-m", "jr_dist", "train", str(file), "--resume", "auto"]
        return subprocess.Popen(words, env=away_from_ray(JR_TEST_MARK=mark), stdout=out, stderr=subprocess.STDOUT), said


def six_epochs(dataset: Path, run: Path) -> Config:
    # Twice as many steps an epoch as elsewhere: the kill must come before the end.
    own_ray = {"cluster__num_cpus": 4, "cluster__object_store_mb": 128}
    return on_shards(dataset, run, 2, 1, train__epochs=EPOCHS, train__batch_size=2, **own_ray)


@pytest.fixture(scope="module")
def killed(tiny_dataset, tmp_path_factory):
    """The folder of a run of six epochs, with two workers and two shards, whose whole tree was killed after three."""
    run = tmp_path_factory.mktemp("killed") / "run"
    mark = uuid.uuid4().hex
    process, said = in_a_tree_of_its_own(six_epochs(tiny_dataset, run), mark)
    try:
        last, deadline = checkpoint_path(run, LAST), time.monotonic() + PATIENCE
        while not last.is_symlink() or last.readlink().name < f"step-{3 * 2 * STEPS_PER_EPOCH:08d}":
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.005)
    finally:
        number = kill_tree(mark)
        process.wait()
    assert number > 8, "a driver, Ray's own processes, two workers, two shards"
    step = load_checkpoint(checkpoint_path(run, LAST)).manifest["step"]
    assert 18 <= step < 36, "killed in the middle"
    return run


@pytest.mark.slow
def test_after_kill_9_of_the_whole_tree_a_run_ends_with_the_same_bits(ray_cluster, killed, tiny_dataset, tmp_path):
    mark = uuid.uuid4().hex
    run = tmp_path / "run"
    shutil.copytree(killed, run, symlinks=True)
    process, said = in_a_tree_of_its_own(six_epochs(tiny_dataset, run), mark)
    try:
        process.wait(timeout=PATIENCE)
    finally:
        kill_tree(mark)
    assert process.returncode == 0, said.read_text()
    assert "resumed at step" in said.read_text()
    straight = tmp_path / "straight"
    train(six_epochs(tiny_dataset, straight))
    assert_equal_runs(run, straight)
    assert reasons_of(run) == ["started", "started"]


@pytest.mark.slow
def test_another_number_of_workers_and_shards_takes_the_run_up(ray_cluster, killed, tiny_dataset, tmp_path):
    """One worker with three shards goes on from what two with two left: as one process does, to the bit."""
    alone = {"train__batch_size": 4, "train__epochs": EPOCHS + 1, "bank__block_size": 2, "bank__lookahead": 1}
    alone |= {"train__validate_every": 1}
    for name, overrides in {
        "here": {"train__num_workers": 0, "bank__num_shards": 1},
        "there": {"train__num_workers": 1, "bank__num_shards": 3},
    }.items():
        shutil.copytree(killed, tmp_path / name, symlinks=True)
        train(settings(tiny_dataset, tmp_path / name, **alone, **overrides))
    first, second = arrays_of(tmp_path / "here"), arrays_of(tmp_path / "there")
    assert first.keys() == second.keys()
    # The entropy that is logged joins the shards' sums: equal up to the order of summation.
    assert np.allclose(first.pop("drawn.effective"), second.pop("drawn.effective"), rtol=1e-5)
    assert [name for name in first if not np.array_equal(first[name], second[name])] == []
    assert load_checkpoint(checkpoint_path(tmp_path / "there", LAST)).manifest["step"] == 6 * (EPOCHS + 1)


@pytest.mark.slow
def test_more_workers_and_shards_take_the_run_up(ray_cluster, half_way, tiny_dataset, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(half_way, run, symlinks=True)
    before = arrays_of(run)
    with struck_by([]):
        metrics = train(on_shards(tiny_dataset, run, 5, 1, train__epochs=4, train__validate_every=2)).metrics
    after = arrays_of(run)
    assert np.isfinite(metrics["chamfer_x100"])
    assert before.keys() == after.keys()
    counts = [name for name in before if name.endswith(".count")]
    assert counts and all((after[name] >= before[name]).all() for name in counts)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
    assert steps == [0, *range(6, 12)]


@pytest.mark.slow
def test_a_damaged_block_is_named_by_the_shard_that_reads_it(ray_cluster, killed, tiny_dataset, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(killed, run, symlinks=True)
    config = six_epochs(tiny_dataset, run)
    (run / "config.yaml").write_text(config.to_yaml())
    flip(Path(str(checkpoint_path(run, LAST))) / "bank-000003.safetensors")
    before = bytes_of(run)
    with pytest.raises(InputError, match=r"bank-000003\.safetensors is damaged or missing \(its hash differs"):
        train(config)
    assert {name: content for name, content in bytes_of(run).items() if not name.startswith("ray/")} == {
        name: content for name, content in before.items() if not name.startswith("ray/")
    }
    assert len(reasons_of(run)) == 2, "not tried again"
    said = capfd.readouterr().out
    assert said.count("not started again, since the same would happen: InputError: checkpoint file") == 1
