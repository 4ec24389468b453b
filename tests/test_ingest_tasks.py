"""Which files an ingest reads, under which ids, and what it takes to be up."""

from __future__ import annotations

import numpy as np
import trimesh
from ingest_cases import here, refused, save, table

from jr_dist.data.ingest_tasks import find_tasks


def test_ids_stay_apart(tmp_path):
    for name in ("a.obj", "a.stl", "a.obj.ply", "b/a.obj", "c.glb"):
        save(tmp_path / name, table())
    tasks, _ = find_tasks(tmp_path)
    assert [task.id for task in tasks] == ["a.obj", "a.obj.ply", "a.stl", "b/a", "c"]


def test_the_index_beats_the_flags_and_gltf_is_y_up(tmp_path):
    for name in ("a.obj", "b.stl", "c.glb"):
        save(tmp_path / name, table())
    (tmp_path / "index.csv").write_text("file,up_axis,category\na.obj,x,stool\ngone.obj,y,chair\n")
    tasks, missing = find_tasks(tmp_path, up="z", category="desk")
    assert [(task.up, task.category) for task in tasks] == [("x", "stool"), ("z", "desk"), ("y", "desk")]
    assert list(missing) == ["gone.obj"]
    (tmp_path / "other.csv").write_text("file,up_axis\nc.glb,z\n")
    tasks, _ = find_tasks(tmp_path, index=tmp_path / "other.csv")
    assert [task.up for task in tasks] == ["x", "y", "z"]
    tasks, _ = find_tasks(tmp_path / "a.obj")
    assert [(task.id, task.category, task.up) for task in tasks] == [("a", "stool", "x")]


def test_an_index_of_a_subfolder_that_is_not_understood_is_refused(tmp_path):
    """Ignored, its categories would be the folders' names, and nobody would know."""
    save(tmp_path / "models" / "deep" / "a.obj", table())
    (tmp_path / "models" / "deep" / "index.csv").write_text("file;category\na.obj;stool\n")
    told = refused(tmp_path, tmp_path / "models", tmp_path / "out")
    assert "deep/index.csv, line 1" in told and "'file;category'" in told
    # Where it speaks of nothing that is read, it is nobody's business.
    (tmp_path / "models" / "deep").rename(tmp_path / "models" / ".deep")
    save(tmp_path / "models" / "b.obj", table())
    assert [task.id for task in find_tasks(tmp_path / "models")[0]] == ["b"]
    (tmp_path / "models" / ".deep").rename(tmp_path / "models" / "deep")
    assert [task.id for task in find_tasks(tmp_path / "models" / "b.obj")[0]] == ["b"]


def test_auto_trusts_gltf_and_guesses_where_the_format_does_not_say(tmp_path):
    """Tables on their backs: a GLB is taken at its word, an STL is set on its feet; the report tells of each turn."""
    lying = table().apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, (1, 0, 0)))
    for name in ("a.glb", "b.glb", "c.stl"):
        save(tmp_path / "models" / name, lying)
    (tmp_path / "models" / "index.csv").write_text("file,up_axis\nb.glb,z\n")
    report = here(tmp_path / "models", tmp_path / "out", up="auto")
    assert {name: model["up_axis"] for name, model in report.models.items()} == {"a": "y", "b": "z", "c": "z"}
    assert [name for name, model in report.models.items() if model.get("up_axis_guessed")] == ["c"]
    lines = report.summary().splitlines()
    assert "1 file turned from z to y up (by the index or --up)" in lines
    assert "1 file turned from z to y up (guessed by --up auto; where wrong, say it by --up or an index)" in lines
    (tmp_path / "models" / "d.gltf").write_text("{}")
    assert [task.up for task in find_tasks(tmp_path / "models", up="auto")[0]] == ["y", "z", "auto", "y"]
    assert "turned" not in here(tmp_path / "models" / "a.glb", tmp_path / "alone", up="auto").summary()


def test_an_earlier_output_within_the_folder_is_no_input(tmp_path):
    save(tmp_path / "a.obj", table())
    save(tmp_path / "out" / "b.obj", table())
    tasks, _ = find_tasks(tmp_path, leave_out=tmp_path / "out")
    assert [task.id for task in tasks] == ["a"]
