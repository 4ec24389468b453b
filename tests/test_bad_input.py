"""Bad input: status 2, one line with the file or setting, the value and the remedy, no traceback, nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh

from jr_dist import cli
from jr_dist.config import load_config
from jr_dist.data.dataset import open_dataset
from jr_dist.data.part_mesh import PartMesh, to_glb

Refused = Callable[..., str]


@pytest.fixture
def refused(capfd, tmp_path) -> Refused:
    """Run a command that must be refused; returns its line. Everything is written below `tmp_path`, if at all."""

    def run(*words: str | Path) -> str:
        before = everything(tmp_path)
        capfd.readouterr()
        status = cli.main([str(word) for word in words])
        captured = capfd.readouterr()
        assert status == 2, captured.err
        assert captured.out == ""
        assert captured.err.count("\n") == 1, captured.err
        assert captured.err.startswith(f"jr-dist {words[0]}: error: ")
        assert "Traceback" not in captured.err
        assert everything(tmp_path) == before, "something was left behind"
        return captured.err

    return run


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder and what it holds."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def box(folder: Path, name: str = "box.glb") -> Path:
    """A good mesh."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(box_bytes())
    return path


def box_bytes() -> bytes:
    legs = [
        trimesh.creation.box((0.1, 1.0, 0.1), trimesh.transformations.translation_matrix((x, 0, 0))) for x in (0, 1)
    ]
    seat = trimesh.creation.box((1.2, 0.1, 0.6), trimesh.transformations.translation_matrix((0.5, 0.5, 0)))
    return to_glb(PartMesh(("leg_a", "leg_b", "seat"), ((legs[0],), (legs[1],), (seat,))))


def no_faces(path: Path) -> None:
    path.with_suffix(".obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")


def nan_vertices(path: Path) -> None:
    path.with_suffix(".obj").write_text("v 0 0 0\nv nan 0 0\nv 0 1 0\nv 1 1 1\nf 1 2 3\nf 1 3 4\n")


def truncated(path: Path) -> None:
    data = box_bytes()
    path.with_suffix(".glb").write_bytes(data[: len(data) // 2])


def no_mesh(path: Path) -> None:
    path.with_suffix(".glb").write_bytes(b"This is a letter, not a mesh.\n" * 20)


def text_as_stl(path: Path) -> None:
    path.with_suffix(".stl").write_bytes(b"This is a letter, not a mesh.\n" * 20)


def nothing(path: Path) -> None:
    path.with_suffix(".ply").write_bytes(b"")


BAD_MESHES = (no_faces, nan_vertices, truncated, no_mesh, text_as_stl, nothing)


def three_points(path: Path) -> None:
    path.with_suffix(".xyz").write_text("0 0 0\n1 0 0\n0 1 0\n")


def nan_points(path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(500, 3))
    points[7, 1] = np.nan
    np.save(path.with_suffix(".npy"), points)


def wrong_shape(path: Path) -> None:
    np.save(path.with_suffix(".npy"), np.zeros((500, 2)))


def pickled(path: Path) -> None:
    np.save(path.with_suffix(".npy"), np.array([{"a": 1}], dtype=object), allow_pickle=True)


BAD_CLOUDS = (three_points, nan_points, wrong_shape, pickled)


def one_file(folder: Path, make: Callable[[Path], None]) -> Path:
    folder.mkdir(exist_ok=True)
    make(folder / "bad")
    (path,) = folder.iterdir()
    return path


def by_name(make: Callable[[Path], None]) -> str:
    return make.__name__


# --- fit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*BAD_MESHES, *BAD_CLOUDS], ids=by_name)
def test_fit_refuses_a_bad_file(refused, tiny_run, tmp_path, make):
    path = one_file(tmp_path / "in", make)
    assert str(path) in refused("fit", tiny_run, path, "--out", tmp_path / "out")


@pytest.mark.parametrize("make", [truncated, three_points], ids=by_name)
def test_in_a_folder_fit_lists_the_bad_and_does_the_rest(capfd, tiny_run, tmp_path, make):
    path = one_file(tmp_path / "in", make)
    box(tmp_path / "in")
    assert cli.main(["fit", str(tiny_run), str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--top-k", "1"]) == 0
    assert str(path) in capfd.readouterr().err
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["box"]
    assert sorted(entry.name for entry in (tmp_path / "out" / "box").iterdir()) == ["rank-1.glb", "result.json"]


def test_fit_refuses_an_empty_folder_and_a_file_that_is_absent(refused, tiny_run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused("fit", tiny_run, tmp_path / "empty", "--out", tmp_path / "out")
    assert "absent.ply" in refused("fit", tiny_run, tmp_path / "absent.ply", "--out", tmp_path / "out")


def test_fit_refuses_more_candidates_than_there_are_sources(refused, tiny_run, tmp_path):
    line = refused("fit", tiny_run, box(tmp_path), "--out", tmp_path / "out", "--top-k", "13")
    assert "13" in line
    assert "12" in line


@pytest.mark.parametrize("verb", ["fit", "evaluate"])
def test_a_run_directory_without_a_checkpoint_is_refused(refused, tiny_run, tmp_path, verb):
    run = tmp_path / "run"
    inputs = [box(tmp_path)] if verb == "fit" else []
    assert str(run) in refused(verb, run, *inputs, "--out", tmp_path / "out"), "no directory at all"
    run.mkdir()
    assert str(run) in refused(verb, run, *inputs, "--out", tmp_path / "out"), "an empty one"
    shutil.copy(tiny_run / "config.yaml", run)
    line = refused(verb, run, *inputs, "--out", tmp_path / "out")
    assert str(run) in line
    assert "checkpoint" in line


# --- ingest ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", BAD_MESHES, ids=by_name)
def test_ingest_refuses_a_bad_file(refused, tmp_path, make):
    path = one_file(tmp_path / "in", make)
    assert path.name in refused("ingest", path, tmp_path / "out")
    assert path.name in refused("ingest", tmp_path / "in", tmp_path / "out"), "nothing remains of the folder"


def test_ingest_refuses_an_empty_folder_and_a_path_that_is_absent(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused("ingest", tmp_path / "empty", tmp_path / "out")
    assert "absent" in refused("ingest", tmp_path / "absent", tmp_path / "out")


def test_in_a_folder_ingest_lists_the_bad_and_does_the_rest(capfd, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for make in BAD_MESHES:
        make(folder / make.__name__)
    for index in range(2):
        box(folder, f"box-{index}.glb")
    assert cli.main(["ingest", str(folder), str(tmp_path / "out"), "--num-sources", "1", "--local"]) == 0
    said = capfd.readouterr().out
    missing = [make.__name__ for make in BAD_MESHES if make.__name__ not in said]
    assert not missing, said
    dataset = open_dataset(tmp_path / "out")
    assert sum(dataset.manifest.counts.values()) == 2


@pytest.mark.parametrize(
    ("flags", "needed"),
    [
        (["--num-sources", "3"], ["num_sources is 3", "1"]),
        (["--num-points", "1000000"], ["num_points is 1000000", "65536"]),
        (["--index", "absent.csv"], ["absent.csv"]),
        (["--cluster.num_cpus", "0"], ["cluster.num_cpus is 0"]),
        (["--partnet"], ["result_after_merging.json"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_ingest_refuses_settings_that_cannot_be_met(refused, tmp_path, flags, needed):
    path = box(tmp_path)
    line = refused("ingest", path, tmp_path / "out", *flags)
    missing = [word for word in needed if word not in line]
    assert not missing, line


def test_nothing_that_exists_is_overwritten(refused, tmp_path):
    path = box(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").write_text("dear")
    assert str(tmp_path / "out") in refused("ingest", path, tmp_path / "out")
    assert str(tmp_path / "out") in refused("synthesize", tmp_path / "out")
    assert str(tmp_path / "out") in refused("synthesize", tmp_path / "out", "--dry-run")


# --- train -----------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tiny_run, tmp_path) -> Path:
    """A config file of a run that would train."""
    path = tmp_path / "config.yaml"
    path.write_text(load_config(tiny_run / "config.yaml", {"run.path": str(tmp_path / "run")}).to_yaml())
    return path


def test_train_refuses_an_unknown_key(refused, settings):
    settings.write_text(settings.read_text().replace("sigma0:", "sigma:"))
    line = refused("train", settings)
    assert "retrieval.sigma " in line
    assert str(settings) in line
    assert "did you mean retrieval.sigma0?" in line


def test_train_refuses_more_candidates_than_the_database_has(refused, settings):
    line = refused("train", settings, "--retrieval.num_candidates", "13")
    assert "retrieval.num_candidates" in line
    assert "13" in line
    assert "12" in line


@pytest.mark.parametrize(
    ("flags", "needed"),
    [
        (["--data.path", "absent"], ["absent"]),
        (["--data.categories", "sofa"], ["sofa", "chair"]),
        (["--data.num_points", "4096"], ["data.num_points", "4096", "256"]),
        (["--train.batch_size", "1000"], ["train.batch_size", "1000"]),
        (["--run.resume", "absent"], ["absent", "run.resume"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_train_refuses_settings_that_the_data_cannot_meet(refused, settings, flags, needed):
    line = refused("train", settings, *flags)
    missing = [word for word in needed if word not in line]
    assert not missing, line


@pytest.mark.parametrize("damage", ["truncate", "empty", "unknown schema"])
def test_train_refuses_a_damaged_dataset(refused, settings, tiny_dataset, tmp_path, damage):
    dataset = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, dataset)
    manifest = dataset / "manifest.json"
    if damage == "truncate":
        (table,) = (dataset / "sources").iterdir()
        table.write_bytes(table.read_bytes()[:1000])
    elif damage == "empty":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 99'))
        assert "99" in manifest.read_text()
    assert str(dataset) in refused("train", settings, "--data.path", dataset)
