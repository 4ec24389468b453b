"""OBJ: groups and materials as parts, relative indices, polygons."""

from __future__ import annotations

import numpy as np
import pytest
from test_mesh_files import TWO_TRIANGLES, picture

from jr_dist.data.mesh_files import load_mesh_file
from jr_dist.data.part_mesh import concatenated


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ("o seat", "o leg", ("seat", "leg")),
        ("g seat", "g leg", ("seat", "leg")),
        ("o all\ng seat", "g leg", ("seat", "leg")),
        ("o seat\ng wood", "o leg\ng wood", ("seat", "leg")),
        ("usemtl wood", "usemtl iron", ("model",)),
        ("", "g leg", ("model", "leg")),
        ("o seat", "o leg back\r", ("seat", "leg back")),
        ("g", "", ("model",)),
    ],
)
def test_obj_groups(tmp_path, first, second, names):
    (tmp_path / "model.obj").write_text(TWO_TRIANGLES.format(first, second))
    assert load_mesh_file(tmp_path / "model.obj").mesh.names == names


def test_obj_materials_keep_their_names_without_their_file(tmp_path):
    text = "mtllib gone.mtl\n" + TWO_TRIANGLES.format("usemtl wood", "usemtl iron")
    (tmp_path / "model.obj").write_text(text)
    pieces = load_mesh_file(tmp_path / "model.obj").mesh.pieces[0]
    assert [piece.visual.material.name for piece in pieces] == ["wood", "iron"]


def test_obj_materials_are_read(tmp_path):
    (tmp_path / "model.mtl").write_text("newmtl wood\nKd 1 0 0\nmap_Kd wood.png\nnewmtl iron\nKd 0 0 1\n")
    picture().save(tmp_path / "wood.png")
    text = "mtllib model.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nvt 1 0\nvt 0 1\n"
    text += "usemtl wood\nf 1/1 2/2 3/3\nusemtl iron\nf 1 2 4\n"
    (tmp_path / "model.obj").write_text(text)
    wood, iron = (piece.visual.material for piece in load_mesh_file(tmp_path / "model.obj").mesh.pieces[0])
    assert np.array_equal(np.asarray(wood.baseColorTexture.convert("RGB")), np.asarray(picture()))
    assert iron.name == "iron" and iron.baseColorFactor[:3].tolist() == [0, 0, 255]


def test_obj_relative_indices_count_from_their_line(tmp_path):
    lines = ["v 0 0 0", "v 1 0 0", "v 0 1 0", "f -3 -2 -1", "o second", "v 5 0 0", "v 6 0 0", "v 5 1 0", "f -3 -2 -1"]
    (tmp_path / "model.obj").write_text("\n".join(lines))
    vertices, faces, _ = concatenated(load_mesh_file(tmp_path / "model.obj").mesh)
    assert sorted(vertices[faces][:, :, 0].min(axis=1).tolist()) == [0, 5]


def test_obj_polygons_and_continued_lines(tmp_path):
    lines = ["v 0 0 0", "v 1 0 0", "v 1 1 0", "v 0.5 1.5 0", "v 0 1 0", "f 1 2 \\", " 3 4 5", "f 1 2 3"]
    (tmp_path / "model.obj").write_text("\n".join(lines))
    assert len(concatenated(load_mesh_file(tmp_path / "model.obj").mesh)[1]) == 3  # the last repeats the first's fan
