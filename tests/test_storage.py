"""Runs on a real S3 server: the bits of a run in a directory, whatever becomes of the server, uploads and objects."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_SETTINGS
from failure_cases import away_from_ray
from storage_cases import assert_same_run, at, copied, last_of
from test_train import arrays_of

from jr_dist import locations
from jr_dist.cli import main
from jr_dist.config import load_config
from jr_dist.data.dataset import open_dataset
from jr_dist.data.synthesize.generate import synthesize
from jr_dist.errors import InputError
from jr_dist.locations import UriPath, as_path
from jr_dist.train.run_directory import BEST, LAST, METRICS, checkpoint_path, claim, has_checkpoint, new_checkpoint
from jr_dist.train.trained import load_run
from jr_dist.train.trainer import train


@pytest.fixture(scope="module")
def undisturbed(tiny_dataset, tmp_path_factory):
    """The run in a directory."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(at(run, tiny_dataset))
    return run


@pytest.fixture(scope="module")
def whole(s3, tiny_dataset):
    """The address of the same run in the store."""
    uri = s3.uri("runs/whole")
    train(at(uri, tiny_dataset))
    return uri


@pytest.fixture(scope="module")
def two_epochs(s3, tiny_dataset):
    """The address of a run of which two epochs of four are trained."""
    uri = s3.uri("runs/half")
    train(at(uri, tiny_dataset, train__epochs=2))
    return uri


@pytest.fixture
def half_way(s3, two_epochs):
    """The address of a copy of it."""
    return copied(two_epochs, s3.uri(f"runs/half-{time.monotonic_ns()}"))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_in_a_store_has_the_bits_and_the_files_of_one_in_a_directory(s3, whole, undisturbed):
    assert_same_run(whole, undisturbed)
    run = s3.on_disk("runs/whole")
    names = {name for name in files(run) if not name.startswith(("tensorboard", "starts"))}
    local = {name for name in files(undisturbed) if not name.startswith(("tensorboard", "starts"))}
    assert names == {name for name in local if not name.startswith(("checkpoints/best/", "checkpoints/last/"))} | {
        "checkpoints/best",
        "checkpoints/last",
    }
    for path in (undisturbed / "checkpoints" / LAST).iterdir():
        if path.suffix == ".safetensors":  # the manifest names the run
            assert (run / "checkpoints" / last_of(whole) / path.name).read_bytes() == path.read_bytes()
    [events] = (run / "tensorboard").iterdir()
    [expected] = (undisturbed / "tensorboard").iterdir()
    assert abs(events.stat().st_size - expected.stat().st_size) < 500  # it names the machine's clock and the process
    assert len(list((run / "starts").glob("0001.json"))) == 1


def test_a_run_in_a_store_is_taken_up_where_it_stopped(half_way, tiny_dataset, undisturbed):
    train(at(half_way, tiny_dataset))
    assert_same_run(half_way, undisturbed)


def test_another_run_is_taken_up_from_a_store(half_way, tiny_dataset, tmp_path, undisturbed):
    train(at(tmp_path / "run", tiny_dataset, train__schedule="constant", run__resume=half_way))
    first, second = arrays_of(tmp_path / "run"), arrays_of(undisturbed)
    assert all(np.array_equal(first[name], second[name]) for name in second)


def test_lines_behind_the_last_checkpoint_are_dropped(half_way, tiny_dataset):
    metrics = as_path(half_way) / METRICS
    before = metrics.read_text()
    assert {json.loads(line)["step"] for line in before.splitlines()} <= set(range(6))
    metrics.write_text(before + '{"step": 6, "part": "train"}\n{"st')
    train(at(half_way, tiny_dataset))
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == sorted(steps) and steps.count(6) == 0


@pytest.mark.slow
def test_a_run_in_a_store_is_evaluated_and_fitted_as_one_in_a_directory(s3, whole, undisturbed, tmp_path, capsys):
    tables = []
    for name, run, out in (
        ("directory", str(undisturbed), str(tmp_path / "tables")),
        ("store", whole, s3.uri("tables")),
    ):
        assert main(["evaluate", run, "--out", out, "--num-points", "256"]) == 0, capsys.readouterr().err
        tree = json.loads((as_path(out) / "tables.json").read_text())
        tables.append(tree["rows"])
        assert "<svg" in (as_path(out) / "report.html").read_text(), name
    assert tables[0] == tables[1]
    scan = next(path for path in Path(open_dataset(load_run(whole).config.data.path).path).glob("scans/*.ply"))
    for name, run in (("there", whole), ("here", str(undisturbed))):
        words = ["fit", run, str(scan), "--out", str(tmp_path / name), "--top-k", "2", "--num-points", "256"]
        assert main(words) == 0, capsys.readouterr().err
    glb = f"{scan.stem}/rank-1.glb"
    assert (tmp_path / "there" / glb).read_bytes() == (tmp_path / "here" / glb).read_bytes()
    assert main(["fit", whole, str(scan), "--out", s3.uri("fitted")]) == 2
    assert "--out is s3://bucket/fitted" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["bank-000003.safetensors", "networks.safetensors", "manifest.json"])
def test_a_damaged_object_is_named(s3, half_way, tiny_dataset, file):
    path = s3.on_disk(str(as_path(half_way)).partition("bucket/")[2].partition("?")[0]) / "checkpoints"
    damaged = path / last_of(half_way) / file
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(InputError, match=rf"{file}.*(its hash differs|missing or damaged)"):
        train(at(half_way, tiny_dataset))
    assert last_of(half_way) == damaged.parent.name


# ---- what breaks on the way ------------------------------------------------------------------------------------------

# What a writer is killed in front of, and the checkpoint that `last` and `best` then name.
MOMENTS = {"manifest.json": ("two", "two"), "best": ("two", "two"), "last": ("two", "three"), "sweep": ("three",) * 2}


def save(run: UriPath, step: int, start: int, text: str) -> None:
    with new_checkpoint(run, step, start, [BEST, LAST]) as aside:
        (aside / "block").write_bytes(text.encode())
        (aside / "manifest.json").write_text(text)


def saved(run: UriPath, which: str) -> str:
    return (checkpoint_path(run, which).resolve() / "manifest.json").read_text()


@pytest.mark.parametrize(("moment", "left"), MOMENTS.items(), ids=MOMENTS)
def test_a_writer_killed_at_any_moment_leaves_whole_checkpoints_and_the_next_cleans_up(s3, moment, left):
    run = UriPath(s3.uri(f"killed/{moment}"))
    assert claim(run, "started") == 1
    save(run, 3, 1, "one")
    save(run, 6, 1, "two")
    script = f"""
        import os
        from jr_dist.locations import UriPath
        from jr_dist.train import run_directory
        write, remove = UriPath.write_bytes, UriPath.remove_tree
        def deadly(path, content):
            if path.name == {moment!r}:
                os._exit(9)
            return write(path, content)
        def deadly_remove(path):
            if {moment!r} == "sweep" and "00000006" in path.name:
                os._exit(9)
            return remove(path)
        UriPath.write_bytes, UriPath.remove_tree = deadly, deadly_remove
        with run_directory.new_checkpoint(UriPath({str(run)!r}), 9, 1, ["best", "last"]) as aside:
            (aside / "block").write_bytes(b"three")
            (aside / "manifest.json").write_text("three")
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=away_from_ray(), check=False)
    assert ended.returncode == 9
    assert (saved(run, LAST), saved(run, BEST)) == left
    entries = s3.on_disk(f"killed/{moment}/checkpoints")
    assert len(list(entries.iterdir())) > 3, "the killed writer left something"
    start = claim(run, "started again")
    save(run, 9, start, "four")
    assert saved(run, LAST) == saved(run, BEST) == "four"
    assert {name.partition("/")[0] for name in files(entries)} == {BEST, LAST, f"step-00000009-start-{start}"}


def test_a_name_that_can_not_be_read_keeps_every_checkpoint(s3):
    run = UriPath(s3.uri("unreadable"))
    claim(run, "started")
    save(run, 3, 1, "one")
    (run / "checkpoints" / LAST).write_text("nonsense")
    with new_checkpoint(run, 6, 1, [BEST]) as aside:
        (aside / "manifest.json").write_text("two")
    assert saved(run, BEST) == "two"
    assert (run / "checkpoints" / "step-00000003-start-1" / "manifest.json").is_file()


def test_of_two_starts_the_older_is_refused_and_the_newers_checkpoint_stays(s3):
    run = UriPath(s3.uri("two-starts"))
    older, newer = claim(run, "started"), claim(run, "started elsewhere")
    save(run, 3, newer, "newer")
    with pytest.raises(InputError, match=r"started again \(start 2\) while this start, 1, still trained; allowed"):
        save(run, 6, older, "older")
    assert saved(run, LAST) == "newer"


@pytest.mark.parametrize("object_name", ["bank-000004.safetensors", "manifest.json", "last"])
def test_an_upload_that_breaks_leaves_the_old_checkpoint_and_the_run_goes_on_from_it(
    s3, half_way, tiny_dataset, undisturbed, monkeypatch, object_name
):
    """Half of the object arrives, then the line is dead, again and again."""
    monkeypatch.setattr(locations, "PATIENCE", 0.0)
    before = last_of(half_way)
    config = at(half_way, tiny_dataset)

    def rule(method: str, path: str) -> str | None:
        at_it = f"checkpoints/{object_name}" in path or ("step-00000009" in path and path.endswith(object_name))
        return "cut" if method == "PUT" and at_it else None

    with s3.breaking(rule), pytest.raises(InputError) as refusal:
        train(config)
    message = str(refusal.value)
    assert "was lost sight of" in message and object_name in message and "\n" not in message
    assert "start it again with run.resume auto" in message
    assert last_of(half_way) == before
    assert arrays_of(half_way)  # reads and checks every object
    train(config)
    assert_same_run(half_way, undisturbed)


def test_a_server_that_dies_during_a_checkpoint_and_comes_back_is_waited_for(s3, tiny_dataset, undisturbed):
    uri, due = s3.uri("runs/server-killed"), threading.Event()

    def rule(method: str, path: str) -> None:
        if method == "PUT" and "step-00000006" in path and "bank-000002" in path and not due.is_set():
            due.set()
            s3.kill()
            threading.Timer(2.0, s3.start).start()

    with s3.breaking(rule):
        train(at(uri, tiny_dataset))
    assert due.is_set()
    assert_same_run(uri, undisturbed)


@pytest.mark.parametrize("operation", ["PUT", "GET"])
def test_a_run_without_permission_ends_in_one_line_before_anything_is_written(s3, tiny_dataset, operation):
    uri = s3.uri(f"forbidden/{operation}")
    before = files(s3.on_disk(""))
    with s3.breaking(lambda method, path: "denied" if method == operation else None), pytest.raises(InputError) as said:
        train(at(uri, tiny_dataset))
    message = str(said.value)
    assert f"s3://bucket/forbidden/{operation}" in message and "refused (ACCESS_DENIED" in message
    assert "AWS_ACCESS_KEY_ID" in message and "\n" not in message
    assert {name for name in files(s3.on_disk("")) - before if ".check-" not in name} == set()


def test_a_shard_that_may_not_write_is_named_before_the_first_step(s3, tiny_dataset):
    """The driver may, and the shards, which ask behind it, may not."""
    uri, probes = s3.uri("runs/shards"), set()

    def rule(method: str, path: str) -> str | None:
        if method != "PUT" or ".check-" not in path:
            return None
        probes.add(path)
        return "denied" if len(probes) > 2 else None

    with s3.breaking(rule), pytest.raises(InputError, match=r"run\.path can't be used: .*writing was refused"):
        train(at(uri, tiny_dataset))
    assert not has_checkpoint(uri)


# ---- data at a URI, and what lies beside runs ------------------------------------------------------------------------


def test_datasets_are_made_and_pictured_in_a_store_as_in_a_directory(s3, tiny_dataset, tmp_path, capsys):
    uri = s3.uri("data/tiny")
    words = ["--num-sources", "12", "--num-targets", "30", "--num-points", "256", "--seed", "0"]
    assert main(["synthesize", uri, *words]) == 0, capsys.readouterr().err
    assert open_dataset(uri, verify=True).hash == open_dataset(tiny_dataset).hash
    there, here = s3.on_disk("data/tiny"), tiny_dataset
    assert files(there) == files(here)
    assert all((there / name).read_bytes() == (here / name).read_bytes() for name in files(here))
    shutil.copytree(here, tmp_path / "data")
    for dataset in (uri, str(tmp_path / "data")):
        words = ["render", dataset, "--num-views", "1", "--size", "32", "--split", "val", "--num-workers", "0"]
        assert main(words) == 0, capsys.readouterr().err
    assert files(there) == files(tmp_path / "data")
    assert all((there / name).read_bytes() == (tmp_path / "data" / name).read_bytes() for name in files(there))
    assert main(["synthesize", uri, "--num-points", "256"]) == 2
    assert "is not empty; allowed is a new place" in capsys.readouterr().err
    with s3.breaking(lambda method, path: "denied" if method == "PUT" else None):
        assert main(["synthesize", s3.uri("data/other"), "--num-points", "256"]) == 2
    assert "output can't be used: s3://bucket/data/other" in capsys.readouterr().err


def test_models_are_ingested_into_a_store(s3, tmp_path, capsys):
    import trimesh

    for name in ("a", "b", "c", "d", "e"):
        (tmp_path / "models").mkdir(exist_ok=True)
        trimesh.creation.box((1, 2, 1 + ord(name) / 100)).export(tmp_path / "models" / f"{name}.glb")
    for out in (s3.uri("data/boxes"), str(tmp_path / "boxes")):
        words = ["ingest", str(tmp_path / "models"), out, "--local", "--num-points", "64", "--num-sources", "2"]
        assert main(words) == 0, capsys.readouterr().err
    assert files(s3.on_disk("data/boxes")) == files(tmp_path / "boxes")
    assert open_dataset(s3.uri("data/boxes"), verify=True).hash == open_dataset(tmp_path / "boxes").hash
    assert main(["ingest", s3.uri("models"), str(tmp_path / "x")]) == 2
    assert "PATH is s3://bucket/models" in capsys.readouterr().err


@pytest.mark.slow
def test_data_labels_and_teacher_may_lie_in_a_store(s3, tiny_dataset, tmp_path, whole):
    uri = s3.uri("data/for-labels")
    arguments = {"num_sources": 12, "num_targets": 30, "categories": ("chair", "table", "cabinet"), "seed": 0}
    synthesize(uri, num_points=256, **arguments)
    own = {"train__method": "fit_aware", "train__teacher": whole, "labels__num_points": 64, "labels__iterations": 1}
    train(at(s3.uri("runs/pupil"), uri, labels__path=s3.uri("labels"), **own))
    train(at(tmp_path / "pupil", tiny_dataset, labels__path=str(tmp_path / "labels"), **own))
    assert_same_run(s3.uri("runs/pupil"), tmp_path / "pupil")
    assert files(s3.on_disk("labels")) == files(tmp_path / "labels")


@pytest.mark.slow
def test_methods_are_compared_in_a_store(s3, tiny_dataset, tmp_path, capsys):
    rows = []
    for path in (s3.uri("compared"), str(tmp_path / "compared")):
        given = {**TINY_SETTINGS, "data.path": str(tiny_dataset), "run.path": path, "compare.methods": "mds,ours"}
        config = load_config(None, given)
        (tmp_path / "compare.yaml").write_text(config.to_yaml())
        assert main(["compare", str(tmp_path / "compare.yaml")]) == 0, capsys.readouterr().err
        rows.append(json.loads((as_path(path) / "evaluation" / "tables.json").read_text())["rows"])
        asked = len(s3.asked)
        assert main(["compare", str(tmp_path / "compare.yaml"), "--dry-run"]) == 0
        assert capsys.readouterr().out.count(" finished") == 2
        assert not [one for one in s3.asked[asked:] if one.method == "PUT"], "a dry run writes nothing"
    assert rows[0] == rows[1]
