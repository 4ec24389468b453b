"""`fit` of what is seen in part: what is hidden is neither punished nor lost, and the mirror image tells of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from fit_cases import MESHES, NUM_POINTS, FakeModel, chair, open_store, read_result, use, write_sources

from jr_dist import cli
from jr_dist.config import IdoConfig
from jr_dist.data.part_mesh import concatenated, from_glb, to_glb
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.geometry.chamfer import one_sided
from jr_dist.serve.fit import fit

WHOLE = chair(0.8, 0.7)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SourceStore:
    return open_store(write_sources(tmp_path_factory.mktemp("fit")))


@pytest.fixture(autouse=True)
def identity_run(store: SourceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FakeModel(store), monkeypatch, trained_on_parts=True)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The right half of a chair, and so little of the left that only its box is known."""
    points = _surface(WHOLE, 8000)
    few = np.arange(len(points)) % 50 == 0
    path = tmp_path_factory.mktemp("scans") / "scan.npy"
    np.save(path, points[(points[:, 0] > 0) | few])
    return path


def _surface(mesh, num_points: int) -> np.ndarray:
    vertices, faces, _ = concatenated(mesh)
    return np.asarray(trimesh.Trimesh(vertices, faces, process=False).sample(num_points, seed=3))


def _hidden_error(result, name: str) -> float:
    """Mean squared distance from the hidden half to the fitted model, in the scan's units."""
    whole, fitted = (_surface(mesh, 8000) for mesh in (WHOLE, from_glb((result.path / name).read_bytes())))
    hidden, model = (torch.from_numpy(points.astype(np.float32))[None] for points in (whole[whole[:, 0] < 0], fitted))
    return one_sided(hidden, model).item()


def test_the_hidden_half_is_kept_and_the_mirror_image_shows_it(scan: Path, tmp_path: Path) -> None:
    errors = {}
    for name, refine, mirror in (("network", False, False), ("alone", True, False), ("mirror", True, True)):
        (result,) = fit("run", [scan], out=tmp_path / name, top_k=2, partial=True, refine=refine, mirror=mirror)
        errors[name] = _hidden_error(result, "rank-1.glb")
        for candidate in result.candidates:
            assert candidate.joints.joints_max_gap < 1e-4
            assert min(min(part.half_extent) for part in candidate.parts) > 0
    assert errors["mirror"] < 0.8 * errors["alone"] < 0.8 * errors["network"]


def test_candidates_are_sorted_by_what_was_minimised(scan: Path, tmp_path: Path) -> None:
    fit("run", [scan], out=tmp_path, top_k=4, num_points=NUM_POINTS, partial=True, refine=True, mirror=True)
    result = read_result(tmp_path / "scan")
    settings = IdoConfig()
    assert result["fitting"] == {
        "partial": True,
        "refined": True,
        "mirror": True,
        "iterations": settings.iterations,
        "prior_weight": settings.prior_weight,
        "ranked_by": "objective_x100",
    }
    objectives = [candidate["objective_x100"] for candidate in result["candidates"]]
    assert objectives == sorted(objectives) and len(set(objectives)) == 4
    for candidate in result["candidates"]:
        assert candidate["parameters"] == "refined"
        assert candidate["one_sided_after_x100"] < candidate["chamfer_after_x100"]
        assert candidate["one_sided_before_x100"] < candidate["chamfer_before_x100"]


def test_without_refinement_hidden_parts_cost_nothing(tmp_path: Path) -> None:
    points = _surface(MESHES["table-a"], 6000)
    np.save(tmp_path / "top.npy", points[points[:, 1] > 0.5])  # a table's top: the post below is hidden
    for partial, field in ((True, "one_sided_after_x100"), (False, "chamfer_after_x100")):
        out = tmp_path / str(partial)
        fit("run", [tmp_path / "top.npy"], out=out, top_k=4, num_points=NUM_POINTS, partial=partial)
        result = read_result(out / "top")
        assert result["fitting"]["ranked_by"] == field
        values = [candidate[field] for candidate in result["candidates"]]
        assert values == sorted(values)
        assert all(candidate["objective_x100"] is None for candidate in result["candidates"])
        assert all(candidate["parameters"] == "network" for candidate in result["candidates"])


def test_a_source_of_a_run_that_does_not_deform_is_refined_from_itself(
    scan: Path, tmp_path: Path, store: SourceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(FakeModel(store, shift=float("nan")), monkeypatch, deforms=False)  # nobody asks it to deform
    (tmp_path / "whole.glb").write_bytes(to_glb(WHOLE))
    for source, partial in ((tmp_path / "whole.glb", False), (scan, True)):
        (result,) = fit("run", [source], out=tmp_path, top_k=2, refine=True, partial=partial, mirror=partial)
        best = result.candidates[0]
        assert best.parameters == "refined" and best.chamfer_network_x100 is None
        assert best.one_sided_after_x100 < 0.5 * best.one_sided_before_x100
        assert read_result(result.path)["candidates"][0]["chamfer_network_x100"] is None


def test_a_run_trained_on_whole_shapes_is_told_of(scan: Path, tmp_path: Path, store, monkeypatch) -> None:
    def warnings(*, partial: bool) -> list[str]:
        (result,) = fit("run", [scan], out=tmp_path, top_k=1, partial=partial)
        return read_result(result.path)["warnings"]

    assert warnings(partial=True) == []
    use(FakeModel(store), monkeypatch)
    assert warnings(partial=False) == []
    (warning,) = warnings(partial=True)
    assert "trained on whole shapes" in warning


@pytest.mark.parametrize(("partial", "refine"), [(False, False), (False, True), (True, False)])
def test_a_mirror_image_is_of_what_is_seen_in_part_and_refined(scan, tmp_path, partial: bool, refine: bool) -> None:
    with pytest.raises(InputError, match="mirror is on; it is allowed with partial and refine"):
        fit("run", [scan], out=tmp_path, top_k=1, mirror=True, partial=partial, refine=refine)


def test_a_dry_run_refuses_what_a_run_would(tiny_run: Path, scan: Path, tmp_path: Path, capsys) -> None:
    words = ["fit", str(tiny_run), str(scan), "--out", str(tmp_path / "out"), "--dry-run"]
    assert cli.main(words) == 0
    assert "would fit 1 inputs to 12 sources" in capsys.readouterr().out
    for wrong, expected in ((["--mirror"], "mirror is on"), (["--top-k", "13"], "top-k is 13")):
        assert cli.main([*words, *wrong]) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "out" / "scan").mkdir(parents=True)
    (tmp_path / "out" / "scan" / "diary.txt").write_text("dear diary")
    assert cli.main(words) == 2
    assert "exists already" in capsys.readouterr().err
