"""Folders of other people's models: what is used, what is told, and that nothing but content counts."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trimesh
from ingest_cases import box, here, refused, save, table
from PIL import Image

from jr_dist.config import ClusterConfig
from jr_dist.data.dataset import iter_targets, open_dataset, read_sources, require_rows
from jr_dist.data.file_parts import sensible
from jr_dist.data.ingest import ingest
from jr_dist.data.ingest_file import ingest_file, try_ingest_file
from jr_dist.data.ingest_report import read_report
from jr_dist.data.ingest_tasks import IngestTask, find_tasks
from jr_dist.data.part_mesh import from_glb
from jr_dist.data.records import SourceModel, TargetShape
from jr_dist.errors import InputError
from jr_dist.geometry.frames import apply_transform
from jr_dist.progress import progress

BAD = {
    "bad/empty.stl": b"",
    "bad/no_faces.obj": b"v 0 0 0\nv 1 0 0\n",
    "bad/nan.obj": b"v 0 0 0\nv 1 0 0\nv nan 1 0\nf 1 2 3\n",
    "bad/not_a_mesh.glb": b"just a note, long enough to hold a header",
    "bad/not_a_mesh.off": b"just a note",
}


def folder_of_models(root: Path, order: int = 1) -> Path:
    """Models of several formats and units, an index for some, bad files between them; created in one order
    or its reverse.
    """
    jobs = [
        (f"tables/t{seed}.{suffix}", partial(table, seed)) for seed, suffix in enumerate(("glb", "stl", "ply", "off"))
    ]
    jobs += [(f"tables/t{seed}.glb", partial(table, seed)) for seed in range(4, 8)]
    jobs += [(f"mixed/m{seed}.obj", partial(table, seed, 1000.0)) for seed in range(8, 12)]
    for name, make in jobs[::order]:
        save(root / name, make())
    for name, content in list(BAD.items())[::order]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    good = save(root / "bad" / "truncated.glb", table(99))
    good.write_bytes(good.read_bytes()[:900])
    (root / "notes.txt").write_text("nothing")
    (root / ".hidden.obj").write_text("nothing")
    (root / "mixed" / "index.csv").write_text("file,category,height_cm,creator\nm8.obj,desk,75,Ada\nm9.obj,desk,80,\n")
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return folder_of_models(tmp_path_factory.mktemp("ingest") / "models")


@pytest.fixture(scope="module")
def dataset(models, tmp_path_factory):
    out = tmp_path_factory.mktemp("ingest") / "dataset"
    with progress("ingest", 18) as state:
        report = here(models, out, num_sources=5, progress=state)
        assert state.done == state.total and state.values == {"used": 12, "left_out": 6}
    return out, report


def test_good_files_are_used_and_bad_ones_told(dataset):
    out, report = dataset
    assert len(report.models) == 12 and report.num_sensible == 12
    assert sorted(report.skipped) == sorted([*BAD, "bad/truncated.glb"])
    assert report.manifest.counts["sources"] == 5 and sum(report.manifest.counts.values()) == 12
    for file, reason in report.skipped.items():
        assert file in reason and "\n" not in reason and len(reason) < 400
    assert "12 of 18 models used: 5 sources" in report.summary()
    told = read_report(out)
    assert {entry["file"] for entry in told["left_out"]} == set(report.skipped)
    assert {entry["id"] for entry in told["used"]} == set(report.models)
    assert {entry["role"] for entry in told["used"]} <= {"source", "train", "val", "test"}


def test_the_contact_sheet_is_a_picture(dataset):
    sheet = np.asarray(Image.open(dataset[0] / "contact_sheet.png").convert("RGB"))
    assert sheet.shape[1] > 12 * 100 and len(np.unique(sheet.reshape(-1, 3), axis=0)) > 5


def test_records_lead_back_to_their_files(models, dataset):
    """Parts, provenance, and the transform from the canonical frame to the file's own frame and units."""
    opened = open_dataset(dataset[0], verify=True)
    records: list[SourceModel | TargetShape] = [*read_sources(opened)]
    for split in ("train", "val", "test"):
        if opened.manifest.counts[split]:
            records += iter_targets(opened, split)
    assert len(records) == 12
    for record in records:
        bounds = trimesh.load_scene(models / record.provenance["file"], process=False).bounds
        points = apply_transform(record.transform, record.points.astype(float))
        size = np.ptp(bounds, axis=0)
        assert (points >= bounds[0] - 1e-5 * size).all() and (points <= bounds[1] + 1e-5 * size).all()
        assert np.linalg.norm(np.ptp(points, axis=0) - size) < 0.5 * np.linalg.norm(size)
        assert set(record.part_index.tolist()) <= set(range(5))
    for source in read_sources(opened):
        assert set(source.part_index.tolist()) == set(range(5))
        assert source.num_parts == 5 and from_glb(source.mesh_glb).names == source.part_names
    desks = [record for record in records if record.category == "desk"]
    assert {record.provenance["file"]: record.provenance.get("creator") for record in desks} == {
        "mixed/m8.obj": "Ada",
        "mixed/m9.obj": None,
    }
    assert all(record.provenance["unit"] == "cm" for record in desks)
    assert {record.category for record in records} == {"desk", "mixed", "tables"}


def test_the_order_of_the_folder_and_its_place_do_not_count(dataset, tmp_path):
    again = here(folder_of_models(tmp_path / "elsewhere" / "models", order=-1), tmp_path / "out", num_sources=5)
    assert again.manifest.hash == dataset[1].manifest.hash
    assert (tmp_path / "out" / "manifest.json").read_bytes() == (dataset[0] / "manifest.json").read_bytes()
    sheets = [Path(out, "contact_sheet.png").read_bytes() for out in (tmp_path / "out", dataset[0])]
    assert sheets[0] == sheets[1]


def test_the_split_seed_moves_roles_but_no_model(models, dataset, tmp_path):
    other = here(models, tmp_path / "out", num_sources=5, split_seed=1, pictures=False)
    assert other.models == dataset[1].models
    assert other.manifest.hash != dataset[1].manifest.hash
    assert not (tmp_path / "out" / "contact_sheet.png").exists()


# --- bad input
# -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_single_bad_file_is_refused(models, tmp_path, name):
    assert name in refused(tmp_path, models / name, tmp_path / "out")


def test_a_folder_of_bad_files_is_refused(models, tmp_path):
    assert "none of the 6 models" in refused(tmp_path, models / "bad", tmp_path / "out")


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no mesh" in refused(tmp_path, tmp_path / "empty", tmp_path / "out")
    assert "does not exist" in refused(tmp_path, tmp_path / "missing", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_sources": 0}, "num_sources is 0"),
        ({"num_sources": 400}, "num_sources is 400"),
        ({"num_sources": 14}, "only 12 models can be used"),
        ({"split_seed": -1}, "split_seed is -1"),
        ({"num_points": 3}, "num_points is 3"),
        ({"file_seconds": 0}, "file_seconds is 0"),
        ({"up": "w"}, "'w'"),
        ({"index": "missing.csv"}, "missing.csv cannot be read"),
    ],
)
def test_wrong_settings_are_refused(models, tmp_path, options, expected):
    assert expected in refused(tmp_path, models, tmp_path / "out", **options)


def test_an_output_that_exists_is_refused(models, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("precious")
    assert "exists already" in refused(tmp_path, models, tmp_path / "out")


# --- odd models that are handled
# -------------------------------------------------------------------------------------


def one(tmp_path, scene, name="odd.glb", **about):
    path = save(tmp_path / name, scene)
    return ingest_file(IngestTask(str(path), "odd", "thing", name, **about), num_points=128).source


def test_one_part_and_a_flat_part(tmp_path):
    single = one(tmp_path, trimesh.Scene(trimesh.creation.icosphere()))
    assert single.num_parts == 1
    sheet = trimesh.Trimesh([(0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)], [(0, 1, 2), (0, 2, 3)], process=False)
    scene = trimesh.Scene([sheet, box((0.1, 0.5, 0.1), (0.5, -0.3, 0.5))])
    flat = one(tmp_path, scene)
    assert flat.num_parts == 2 and (flat.half_extent > 0).all()
    alone = one(tmp_path, trimesh.Scene(sheet))
    assert alone.num_parts == 1 and np.isfinite(alone.points).all()


@pytest.mark.parametrize("suffix", ["glb", "stl"])
def test_two_hundred_parts(tmp_path, suffix):
    rng = np.random.default_rng(0)
    boxes = [box(rng.uniform(0.02, 0.2, 3), rng.random(3)) for _ in range(200)]
    source = one(tmp_path, trimesh.Scene(boxes), f"odd.{suffix}")
    assert 2 <= source.num_parts <= 16
    assert source.provenance["file_nodes"] == (200 if suffix == "glb" else 1)
    faces = sum(len(piece.faces) for pieces in from_glb(source.mesh_glb).pieces for piece in pieces)
    assert faces == 200 * 12


@pytest.mark.parametrize(("count", "grouped"), [(16, False), (17, True)])
def test_files_whose_parts_were_merged_are_counted(tmp_path, count, grouped):
    rng = np.random.default_rng(0)
    save(tmp_path / "many.glb", trimesh.Scene([box(rng.uniform(0.02, 0.2, 3), rng.random(3)) for _ in range(count)]))
    report = here(tmp_path / "many.glb", tmp_path / "out")
    told = read_report(tmp_path / "out")["used"][0]
    assert told == {"id": "many", "role": "source", **report.models["many"]}
    assert told.get("grouped_from") == (count if grouped else None)
    assert (told["num_parts"] < count) == grouped
    assert ("1 file had more than 16 parts" in report.summary()) == grouped


@pytest.mark.parametrize(("num_sources", "trainable"), [(1, True), (4, True), (5, False), (6, False), (7, False)])
def test_a_dataset_that_cannot_be_trained_on_says_so(tmp_path, num_sources, trainable):
    """Said of those alone that `train` refuses for want of targets."""
    for seed in range(7):
        save(tmp_path / "models" / f"{seed}.glb", table(seed))
    report = here(tmp_path / "models", tmp_path / "out", num_sources=num_sources, pictures=False)
    counts = report.manifest.counts
    assert sum(counts.values()) == 7 and trainable == bool(counts["train"] and counts["val"])
    assert ("nothing can be trained" in report.summary()) != trainable
    opened = open_dataset(tmp_path / "out")
    with nullcontext() if trainable else pytest.raises(InputError, match="split"):
        for split in ("train", "val"):
            require_rows(opened, split)


def test_duplicate_and_degenerate_faces(tmp_path):
    mesh = table().to_mesh()
    twice = np.concatenate([mesh.faces, mesh.faces[:20], mesh.faces[:, ::-1], np.repeat(mesh.faces[:5, :1], 3, axis=1)])
    path = tmp_path / "odd.obj"
    lines = [f"v {x} {y} {z}" for x, y, z in mesh.vertices] + [f"f {a} {b} {c}" for a, b, c in twice + 1]
    path.write_text("\n".join(lines))
    source = ingest_file(IngestTask(str(path), "odd", "thing", "odd.obj"), num_points=128).source
    assert source.num_parts == 5
    assert source.provenance["degenerate_faces"] == 5 and source.provenance["repeated_faces"] == 20


def test_the_index_says_how_parts_are_separated(tmp_path):
    scene = table()
    pair = trimesh.util.concatenate([box((0.2, 0.2, 0.2), (0, 2, 0)), box((0.2, 0.2, 0.2), (1, 2, 0))])
    scene.add_geometry(pair, node_name="pair")
    assert one(tmp_path, scene).num_parts == 6
    assert one(tmp_path, scene, parts="nodes").num_parts == 6
    assert one(tmp_path, scene, parts="nodes_or_components").num_parts == 7
    assert one(tmp_path, scene, parts="connected_components").num_parts == 7


def test_sensible_sizes():
    assert sensible([0.5, 0.3, 0.2]) and sensible([1 / 16] * 16)
    assert not sensible([1.0]) and not sensible([0.97, 0.03]) and not sensible([0.9, 0.0999, 0.0001])
    assert not sensible([1 / 17] * 17)


# --- time and death
# ----------------------------------------------------------------------------------------------------


def test_a_file_that_takes_too_long_is_given_up(tmp_path, monkeypatch):
    path = save(tmp_path / "slow.glb", table())

    def forever(*args, **options):
        while True:
            try:
                sum(range(1000))
            except Exception:  # as a parser might
                continue

    monkeypatch.setattr("jr_dist.data.ingest_file.load_mesh_file", forever)
    result = try_ingest_file(IngestTask(str(path), "slow", "thing", "slow.glb"), num_points=64, seconds=0.2)
    assert result.source is None and "more than 0.2 s" in str(result.problem)


def test_our_own_errors_do_not_stop_the_others(tmp_path, monkeypatch):
    path = save(tmp_path / "odd.glb", table())
    monkeypatch.setattr("jr_dist.data.ingest_file.find_parts", lambda *args: 1 / 0)
    result = try_ingest_file(IngestTask(str(path), "odd", "thing", "odd.glb"), num_points=64)
    assert "ZeroDivisionError" in str(result.problem) and "report" in str(result.problem)


@pytest.mark.slow
def test_ray_gives_the_same_bytes(ray_cluster, models, dataset, tmp_path):
    report = ingest(models, tmp_path / "out", num_points=64, num_sources=5)
    assert report.manifest.hash == dataset[1].manifest.hash and report.skipped == dataset[1].skipped
    assert (tmp_path / "out" / "ingest.json").read_bytes() == (dataset[0] / "ingest.json").read_bytes()


@pytest.mark.slow
def test_a_worker_that_dies_takes_only_its_file_along(ray_cluster, models):
    from jr_dist.data.ingest_job import ingest_in_parallel

    def deadly(task, **options):
        """Stands for a crash in compiled code, on one of the files."""
        if task.id == "t5":
            os._exit(1)
        return try_ingest_file(task, **options)

    tasks, _ = find_tasks(models / "tables")
    options = {"num_points": 64, "seconds": 60.0, "pictures": frozenset(), "cluster": ClusterConfig()}
    results = {result.id: result for result in ingest_in_parallel(tasks, read=deadly, **options)}
    assert sorted(results) == sorted(task.id for task in tasks)
    assert [name for name, result in results.items() if result.problem] == ["t5"]
    assert "ended the process" in str(results["t5"].problem)


# --- real furniture
# ------------------------------------------------------------------------------------------------------


def test_some_real_furniture(furniture, tmp_path):
    rows = [line for line in (furniture / "index.csv").read_text().splitlines() if line]
    kept = [rows[0], *rows[5::31]]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "index.csv").write_text("\n".join(kept))
    for line in kept[1:]:
        name = line.split(",")[0]
        (tmp_path / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(furniture / name, tmp_path / "models" / name)
    report = here(tmp_path / "models", tmp_path / "out", pictures=False)
    assert not report.skipped and len(report.models) == len(kept) - 1
    assert report.num_sensible >= 0.8 * len(report.models)
    for model in report.models.values():
        assert model["licence"] and model["creator"]
        json.dumps(model)


@pytest.mark.slow
def test_all_real_furniture(ray_cluster, furniture, tmp_path):
    report = ingest(furniture, tmp_path / "out", num_points=256)
    total = len(report.models) + len(report.skipped)
    assert total >= 247 and len(report.models) >= 0.95 * total, report.skipped
    assert report.num_sensible >= 0.8 * total
