"""PartNet's tree: leaves are parts, names stay, broken surfaces and wild names do no harm."""

from __future__ import annotations

import json

import numpy as np
import pytest
import trimesh

from jr_dist.data.file_parts import find_parts
from jr_dist.data.ingest import ingest
from jr_dist.data.ingest_tasks import find_tasks
from jr_dist.data.part_mesh import concatenated
from jr_dist.data.partnet import HIERARCHY, load_partnet
from jr_dist.errors import InputError


def node(name, objs=(), children=()):
    entry = {"id": 0, "name": name, "text": name.title(), "objs": list(objs)}
    return entry | ({"children": list(children)} if children else {})


def write_model(folder, roots, *, category="Chair", boxes=None):
    """A PartNet model: every surface named becomes a box of its own, beside the others."""
    (folder / "objs").mkdir(parents=True)
    (folder / HIERARCHY).write_text(json.dumps(roots))
    (folder / "meta.json").write_text(json.dumps({"model_cat": category, "anno_id": folder.name}))
    names = boxes if boxes is not None else sorted(set(surfaces(roots)))
    for number, name in enumerate(names):
        mesh = trimesh.creation.box((0.4, 0.3, 0.2))
        mesh.apply_translation((0.7 * number, 0, 0))
        (folder / "objs" / f"{name}.obj").write_text(trimesh.exchange.obj.export_obj(mesh))
    return folder


def surfaces(entries):
    for entry in entries:
        yield from entry.get("objs", [])
        yield from surfaces(entry.get("children", []))


def chair():
    """PartNet's inner nodes repeat the surfaces of their leaves."""
    legs = [node("leg", [f"new-{i}"]) for i in range(4)]
    base = node("chair_base", [f"new-{i}" for i in range(4)], legs)
    seat = node("chair_seat", ["original-1", "original-2"])
    return [node("chair", ["original-1"], [seat, base])]


def test_leaves_are_parts(tmp_path):
    mesh, how = find_parts(load_partnet(write_model(tmp_path / "42", chair())), "nodes")
    assert mesh.names == ("chair_seat", "leg", "leg_2", "leg_3", "leg_4")
    assert [len(pieces) for pieces in mesh.pieces] == [2, 1, 1, 1, 1]
    assert len(concatenated(mesh)[1]) == 6 * 12 and how["file_nodes"] == 5


def test_more_than_sixteen_leaves_are_grouped(tmp_path):
    leaves = [node("slat", [f"new-{i}"]) for i in range(30)]
    mesh, how = find_parts(load_partnet(write_model(tmp_path / "42", [node("bed", (), leaves)])), "nodes")
    assert 2 <= mesh.num_parts <= 16 and how["file_nodes"] == 30
    assert len(concatenated(mesh)[1]) == 30 * 12, "no surface is lost"


def test_broken_surfaces_are_left_out_and_counted(tmp_path):
    folder = write_model(tmp_path / "42", chair())
    (folder / "objs" / "new-0.obj").write_text("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (folder / "objs" / "new-1.obj").unlink()
    loaded = load_partnet(folder)
    assert loaded.mesh.names == ("chair_seat", "leg", "leg_2") and loaded.provenance["broken_surfaces"] == 2


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "..", ".hidden", "a/b"])
def test_names_stay_within_the_folder(tmp_path, name):
    (tmp_path / "secret.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    roots = [node("chair", (), [node("leg", [name]), node("seat", ["original-1"])])]
    folder = write_model(tmp_path / "42", roots, boxes=["original-1"])
    assert load_partnet(folder).mesh.names == ("seat",)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("no json", "no PartNet hierarchy"),
        ('["leg"]', "no PartNet hierarchy"),
        ("[]", "names no surface"),
        ('[{"name": "chair", "objs": ["gone"]}]', "none of its 1 surfaces"),
        ("[" * 100_000, "no PartNet hierarchy"),
    ],
)
def test_a_bad_hierarchy_is_refused(tmp_path, content, expected):
    folder = write_model(tmp_path / "42", chair())
    (folder / HIERARCHY).write_text(content)
    with pytest.raises(InputError, match="42") as caught:
        load_partnet(folder)
    assert expected in str(caught.value)


def test_a_tree_becomes_a_dataset(tmp_path):
    for number in range(5):
        category = "StorageFurniture" if number % 2 else "Chair"
        write_model(tmp_path / "data_v0" / str(number), chair(), category=category)
    (tmp_path / "data_v0" / "9" / "objs").mkdir(parents=True)
    (tmp_path / "data_v0" / "9" / HIERARCHY).write_text("{}")
    tasks, _ = find_tasks(tmp_path / "data_v0", partnet=True)
    assert [(task.id, task.category) for task in tasks[:2]] == [("0", "chair"), ("1", "cabinet")]
    report = ingest(tmp_path / "data_v0", tmp_path / "out", partnet=True, num_points=64, num_sources=2, local=True)
    assert report.manifest.counts["sources"] == 2 and len(report.models) == 5
    assert list(report.skipped) == ["9"]
    assert set(report.manifest.categories) == {"chair", "cabinet"}


def test_a_tree_without_the_flag_is_told(tmp_path):
    write_model(tmp_path / "data_v0" / "1", chair())
    with pytest.raises(InputError, match="--partnet"):
        find_tasks(tmp_path / "data_v0")
    with pytest.raises(InputError, match="no PartNet model"):
        find_tasks(tmp_path / "data_v0" / "1" / "objs", partnet=True)


def test_the_single_model_of_a_folder(tmp_path):
    folder = write_model(tmp_path / "2307", chair())
    tasks, _ = find_tasks(folder, partnet=True, up="auto")
    assert tasks[0].up == "y", "nothing is guessed from single surfaces"
    assert [task.id for task in tasks] == ["2307"]
    assert np.isfinite(concatenated(load_partnet(folder, up="z").mesh)[0]).all()
