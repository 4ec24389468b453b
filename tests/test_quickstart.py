"""The whole story in small: dataset, four methods under Ray Train, comparison, scans fitted; and again at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trimesh
from conftest import TINY_SETTINGS

from jr_dist import quickstart

SMALL = {**TINY_SETTINGS, "train.num_workers": 1}


@pytest.mark.slow
def test_the_quickstart_leaves_what_it_names_and_can_be_run_again(ray_cluster, tmp_path, capfd):
    data, runs = tmp_path / "data", tmp_path / "runs"
    words = ["--data", str(data), "--runs", str(runs), "--num-sources", "6", "--num-targets", "60"]
    for name, value in SMALL.items():
        words += [f"--{name}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    assert quickstart.main(words) == 0, capfd.readouterr().err
    first = capfd.readouterr().out
    tables = json.loads((runs / "evaluation" / "tables.json").read_text())
    rows = {(row["method"], row["retrieval"]) for row in tables["rows"]}
    top1 = {"Box", "R", "R+DF", "Uniform Sampling", "Ours"}
    assert {(method, "top-1") for method in top1} <= rows
    assert {(method, "oracle") for method in ("DF", "Uniform Sampling", "Ours")} <= rows
    report = runs / "evaluation" / "report.html"
    assert f"report: {report}" in first
    assert report.read_text().startswith("<!")
    glbs = first.partition("fitted: ")[2].split()
    assert len(glbs) == len(list((data / "scans").iterdir()))
    for glb in glbs:
        result = json.loads((Path(glb).parent / "result.json").read_text())
        names = {part["name"] for part in result["candidates"][0]["parts"]}
        scene = trimesh.load_scene(glb)
        assert names <= set(scene.graph.nodes)

    dataset = (data / "manifest.json").read_bytes()
    assert quickstart.main(words) == 0, capfd.readouterr().err
    assert (data / "manifest.json").read_bytes() == dataset
    assert json.loads((runs / "evaluation" / "tables.json").read_text())["rows"] == tables["rows"]

    assert quickstart.main([*words, "--num-sources", "7"]) == 2
    assert "num_sources 6" in capfd.readouterr().err


def test_a_device_that_is_not_there_is_named_before_anything_is_made(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (
        quickstart.main(["--device", "cuda", "--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")]) == 2
    )
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "--device is cuda, but this machine has no CUDA device" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", quickstart.DECIDED)
def test_what_it_decides_itself_has_no_flag(name, capfd):
    assert quickstart.main([f"--{name}", "x"]) == 2
    assert name in capfd.readouterr().err
