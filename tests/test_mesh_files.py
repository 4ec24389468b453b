"""Mesh files in every format, and every way in which they can be bad."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from jr_dist.data.build import build_source
from jr_dist.data.file_parts import find_parts
from jr_dist.data.mesh_files import MESH_SUFFIXES, load_mesh_file, read_index
from jr_dist.data.part_mesh import concatenated, from_glb, to_glb
from jr_dist.data.upright import size_factors
from jr_dist.errors import InputError
from jr_dist.geometry.frames import apply_transform

FORMATS = [suffix[1:] for suffix in MESH_SUFFIXES]
TWO_TRIANGLES = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n{0}\nf 1 2 3\n{1}\nf 1 2 4\n"


def chair() -> trimesh.Scene:
    """A seat, a back and four legs, z forward, y up, each a node with its material."""
    scene = trimesh.Scene()
    wood = PBRMaterial(name="wood", baseColorFactor=(120, 80, 40, 255))
    cloth = PBRMaterial(name="cloth", baseColorTexture=picture(), metallicFactor=0.0)
    pieces = {"seat": ((0.5, 0.06, 0.5), (0, 0.45, 0)), "back": ((0.5, 0.6, 0.05), (0, 0.78, -0.22))}
    pieces |= {f"leg {i}": ((0.05, 0.42, 0.05), (x, 0.21, z)) for i, (x, z) in enumerate(corners(0.2))}
    for name, (extents, centre) in pieces.items():
        mesh = trimesh.creation.box(extents)
        mesh.apply_translation(centre)
        material = cloth if name == "seat" else wood
        mesh.visual = TextureVisuals(uv=np.asarray(mesh.vertices)[:, :2] % 1.0, material=material)
        scene.add_geometry(mesh, node_name=name, geom_name=name)
    return scene


def corners(half):
    return [(x, z) for x in (-half, half) for z in (-half, half)]


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))


def write(path, scene=None):
    """The scene in the format of the path's suffix."""
    scene = scene or chair()
    suffix = path.suffix[1:].lower()
    if suffix in ("glb", "gltf"):
        files = {path.name: scene.export(file_type="glb")} if suffix == "glb" else scene.export(file_type="gltf")
        for name, content in files.items():
            (path if name in ("model.gltf", path.name) else path.parent / name).write_bytes(content)
    elif suffix == "obj":
        path.write_text(trimesh.exchange.obj.export_obj(scene, include_texture=False))
    else:
        scene.to_mesh().export(path)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_surface(tmp_path, suffix):
    loaded = load_mesh_file(write(tmp_path / f"chair.{suffix}"))
    vertices, faces, _ = concatenated(loaded.mesh)
    assert len(faces) == 6 * 12
    expected = chair().to_mesh()
    assert np.allclose([vertices.min(axis=0), vertices.max(axis=0)], expected.bounds, atol=1e-6)
    assert trimesh.Trimesh(vertices, faces, process=False).area == pytest.approx(expected.area, rel=1e-6)
    mesh, how = find_parts(loaded)
    assert mesh.num_parts == 6 and how["parts_from"] == (
        "nodes" if suffix in ("glb", "gltf", "obj") else "connected_components"
    )
    assert sum(how["part_area_share"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("suffix", ["glb", "gltf"])
def test_names_materials_and_textures_stay(tmp_path, suffix):
    mesh, _ = find_parts(load_mesh_file(write(tmp_path / f"chair.{suffix}")))
    again = from_glb(to_glb(mesh))
    assert again.names == tuple(chair().geometry)
    (seat,) = again.pieces[again.names.index("seat")]
    assert seat.visual.material.name == "cloth" and seat.visual.uv.shape == (8, 2)
    assert np.array_equal(np.asarray(seat.visual.material.baseColorTexture), np.asarray(picture()))
    (back,) = again.pieces[again.names.index("back")]
    assert back.visual.material.name == "wood"


def test_a_node_of_several_materials_is_one_part(tmp_path):
    scene = chair()
    scene.geometry["seat"].metadata["name"] = "seat"
    data = to_glb(find_parts(load_mesh_file(write(tmp_path / "plain.glb")))[0])
    tree, blob = split_glb(data)
    names = {mesh["name"]: number for number, mesh in enumerate(tree["meshes"])}
    # The back becomes a second primitive of the seat's mesh; its node goes.
    tree["meshes"][names["seat"]]["primitives"] += tree["meshes"][names["back"]]["primitives"]
    tree["nodes"][[node["name"] for node in tree["nodes"]].index("back")].pop("mesh")
    (tmp_path / "two.glb").write_bytes(join_glb(tree, blob))
    loaded = load_mesh_file(tmp_path / "two.glb")
    assert loaded.mesh.num_parts == 5
    pieces = loaded.mesh.pieces[loaded.mesh.names.index("seat")]
    assert [piece.visual.material.name for piece in pieces] == ["cloth", "wood"]
    assert load_mesh_file(tmp_path / "two.glb").mesh.names == loaded.mesh.names


def test_a_mesh_that_stands_at_two_nodes_is_there_twice(tmp_path):
    tree, blob = split_glb(write(tmp_path / "chair.glb").read_bytes())
    node = next(node for node in tree["nodes"] if node.get("name") == "leg 0")
    tree["nodes"].append({**node, "name": "leg 9", "translation": [2.0, 0, 0]})
    scene = tree["scenes"][tree.get("scene", 0)]
    home = scene["nodes"] if len(scene["nodes"]) > 1 else tree["nodes"][scene["nodes"][0]]["children"]
    home.append(len(tree["nodes"]) - 1)
    (tmp_path / "more.glb").write_bytes(join_glb(tree, blob))
    mesh = load_mesh_file(tmp_path / "more.glb").mesh
    there, here = (mesh.pieces[mesh.names.index(name)][0] for name in ("leg 9", "leg 0"))
    assert np.allclose(there.vertices, np.asarray(here.vertices) + np.array((2, 0, 0)))


def test_normals_are_kept_only_where_the_file_has_them(tmp_path):
    scene = trimesh.Scene(trimesh.creation.icosphere(subdivisions=1))
    (tmp_path / "with.glb").write_bytes(scene.export(file_type="glb", include_normals=True))
    (tmp_path / "without.glb").write_bytes(scene.export(file_type="glb", include_normals=False))
    with_normals, without = (load_mesh_file(tmp_path / name).mesh.pieces[0][0] for name in ("with.glb", "without.glb"))
    assert "normal" in with_normals.vertex_attributes and "normal" not in without.vertex_attributes


# --- nothing outside the folder
# ------------------------------------------------------------------------------------


def test_textures_outside_the_folder_are_not_read(tmp_path):
    (tmp_path / "inside").mkdir()
    picture().save(tmp_path / "secret.png")
    (tmp_path / "secret.mtl").write_text("newmtl wood\nKd 1 0 0\n")
    for material in ("../secret.mtl", str(tmp_path / "secret.mtl")):
        text = f"mtllib {material}\n" + TWO_TRIANGLES.format("usemtl wood", "usemtl wood")
        (tmp_path / "inside" / "model.obj").write_text(text)
        (piece,) = load_mesh_file(tmp_path / "inside" / "model.obj").mesh.pieces[0]
        assert piece.visual.material.baseColorFactor[0] != 255
    (tmp_path / "inside" / "own.mtl").write_text("newmtl wood\nKd 1 0 0\nmap_Kd ../secret.png\n")
    (tmp_path / "inside" / "model.obj").write_text(text.replace(str(tmp_path / "secret.mtl"), "own.mtl"))
    (piece,) = load_mesh_file(tmp_path / "inside" / "model.obj").mesh.pieces[0]
    assert piece.visual.material.baseColorFactor[0] == 255 and piece.visual.material.baseColorTexture is None


def test_a_link_does_not_lead_outside_either(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.mtl").write_text("newmtl wood\nKd 1 0 0\n")
    os.symlink(tmp_path / "secret.mtl", tmp_path / "inside" / "link.mtl")
    text = "mtllib link.mtl\n" + TWO_TRIANGLES.format("usemtl wood", "usemtl wood")
    (tmp_path / "inside" / "model.obj").write_text(text)
    (piece,) = load_mesh_file(tmp_path / "inside" / "model.obj").mesh.pieces[0]
    assert piece.visual.material.baseColorFactor[0] != 255


def test_gltf_buffers_outside_the_folder_are_refused(tmp_path):
    (tmp_path / "inside").mkdir()
    path = write(tmp_path / "inside" / "chair.gltf")
    tree = json.loads(path.read_bytes())
    name = tree["buffers"][0]["uri"]
    (tmp_path / "inside" / name).rename(tmp_path / name)
    tree["buffers"][0]["uri"] = f"../{name}"
    path.write_text(json.dumps(tree))
    with pytest.raises(InputError, match=r"chair\.gltf cannot be read .*own folder"):
        load_mesh_file(path)


# --- frame and size
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("up", ["x", "y", "z", "-x", "-y", "-z"])
@pytest.mark.parametrize("size", [None, (50.0, 47.0, 108.0), (None, None, 108.0)])
def test_to_file_leads_back(tmp_path, up, size):
    path = write(tmp_path / "chair.ply")
    turn = np.array([(0, 0, 1), (0, 1, 0), (-1, 0, 0)], float)
    vertices = np.asarray(trimesh.load_mesh(path, process=False).vertices)
    loaded = load_mesh_file(path, up=up, rotation=turn, size_cm=size)
    upright = concatenated(loaded.mesh)[0]
    assert np.allclose(apply_transform(loaded.to_file, upright), vertices, atol=1e-6)
    axis = "xyz".index(up[-1])
    assert np.sign(np.diag([1, 1, 1])[axis] @ turn @ loaded.to_file[:3, 1]) == (-1 if up[0] == "-" else 1)
    assert loaded.provenance["up_axis"] == up
    json.dumps(loaded.provenance, allow_nan=False)
    if size:
        assert np.ptp(upright[:, 1]) == pytest.approx(108, rel=0.05)


@pytest.mark.parametrize(
    ("extent", "size", "factors", "note"),
    [
        ((1, 2, 3), (100, 300, 200), (100, 100, 100), "index"),
        ((1, 2, 3), (300, 100, 200), (100, 100, 100), "index, width and depth swapped"),
        ((1, 2, 3), (120, 300, 200), (120, 100, 100), "index, stretched"),
        ((1, 2, 3), (900, 300, 200), (100, 100, 100), "index, one length (the others disagree)"),
        ((1, 2, 3), (None, None, 200), (100, 100, 100), "index"),
        ((1, 2, 0), (100, 5, 200), (100, 100, 100), "index"),
    ],
)
def test_size_factors(extent, size, factors, note):
    found, told = size_factors(np.array(extent, float), size)
    assert np.allclose(found, factors) and told == {"unit": "cm", "size_from": note}


def test_no_size_leaves_the_files_units():
    assert size_factors(np.ones(3), None)[1] == {"unit": "file"}
    assert size_factors(np.ones(3), (None, None, None))[0].tolist() == [1, 1, 1]


def test_the_guessed_up_axis_of_a_table(tmp_path):
    scene = trimesh.Scene()
    for extents, centre in [
        ((1.2, 0.05, 0.8), (0, 0.7, 0)),
        *(((0.05, 0.7, 0.05), (x, 0.35, z)) for x, z in corners(0.35)),
    ]:
        mesh = trimesh.creation.box(extents)
        mesh.apply_translation(centre)
        scene.add_geometry(mesh)
    mesh = scene.to_mesh()
    mesh.export(tmp_path / "y.stl")
    mesh.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, (1, 0, 0)))
    mesh.export(tmp_path / "z.stl")
    for name in "yz":
        told = load_mesh_file(tmp_path / f"{name}.stl", up="auto").provenance
        assert told["up_axis"] == name and told["up_axis_guessed"]


def test_an_stl_shares_its_vertices_and_is_sampled_like_its_loose_triangles(tmp_path):
    """Closed solids come back closed, triangle by triangle as they were; a PLY keeps the vertices that it has."""
    solids = [trimesh.creation.box((1, 2, 3)), trimesh.creation.icosphere(radius=0.7), trimesh.creation.torus(1, 0.2)]
    for number, solid in enumerate(solids):
        solid.apply_translation((4 * number, -1.0, 0.3))
    together = trimesh.util.concatenate(solids)
    corners_of_faces = np.arange(3 * len(together.faces)).reshape(-1, 3)
    loose = trimesh.Trimesh(together.triangles.reshape(-1, 3).astype(np.float32), corners_of_faces, process=False)
    read = {}
    for suffix in ("stl", "ply"):
        loose.export(tmp_path / f"solids.{suffix}")
        read[suffix] = load_mesh_file(tmp_path / f"solids.{suffix}").mesh
    (merged,), (kept,) = read["stl"].pieces[0], read["ply"].pieces[0]
    assert merged.is_watertight and len(merged.vertices) == len(together.vertices)
    assert len(kept.vertices) == 3 * len(together.faces)
    assert np.array_equal(merged.triangles, kept.triangles)
    about = {"id": "x", "category": "x", "num_points": 512, "seed": 0, "provenance": {}}
    one, other = (build_source(read[suffix], **about) for suffix in ("stl", "ply"))
    assert one.points.tobytes() == other.points.tobytes() and one.centre.tobytes() == other.centre.tobytes()


# --- bad files
# -----------------------------------------------------------------------------------------------------


def split_glb(data):
    length = int.from_bytes(data[12:16], "little")
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def join_glb(tree, blob):
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    head = b"glTF" + (2).to_bytes(4, "little") + (28 + len(text) + len(blob)).to_bytes(4, "little")
    return head + len(text).to_bytes(4, "little") + b"JSON" + text + len(blob).to_bytes(4, "little") + b"BIN\0" + blob


def changed_glb(tmp_path, change):
    tree, blob = split_glb(write(tmp_path / "good.glb").read_bytes())
    change(tree)
    return join_glb(tree, blob)


def bad_files(tmp_path):
    """name -> (content, what the message must say)"""
    good = write(tmp_path / "good.glb").read_bytes()
    box = trimesh.creation.box()

    def positions(tree):
        return [tree["accessors"][mesh["primitives"][0]["attributes"]["POSITION"]] for mesh in tree["meshes"]]

    return {
        "empty.obj": (b"", "empty"),
        "note.obj": (b"just a note\nof two lines\n", "without faces"),
        "note.glb": (b"just a note, long enough to hold a header", "not a GLB file"),
        "note.gltf": (b"just a note", "cannot be read"),
        "list.gltf": (b"[]", "not glTF"),
        "note.stl": (b"just a note", "note.stl"),
        "note.ply": (b"just a note", "cannot be read as PLY"),
        "note.off": (b"just a note", "cannot be read as OFF"),
        "truncated.glb": (good[: len(good) // 2], "truncated"),
        "head.glb": (good[:10], "truncated"),
        "truncated.ply": (box.export(file_type="ply")[:300], "truncated.ply"),
        "truncated.stl": (box.export(file_type="stl")[:300], "truncated.stl"),
        "old.glb": (changed_glb(tmp_path, lambda tree: tree["asset"].update(version="1.0")), "glTF 1.0"),
        "draco.glb": (
            changed_glb(tmp_path, lambda tree: tree.update(extensionsRequired=["KHR_draco_mesh_compression"])),
            "KHR_draco_mesh_compression",
        ),
        "claims.glb": (
            changed_glb(tmp_path, lambda tree: positions(tree)[0].update(count=10**12)),
            "1000000000000 elements",
        ),
        "sparse.glb": (changed_glb(tmp_path, lambda tree: positions(tree)[0].update(sparse={})), "sparse"),
        "broken.glb": (changed_glb(tmp_path, lambda tree: tree["accessors"][0].pop("count")), "broken glTF"),
        "points.ply": (
            b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
            b"end_header\n0 0 0\n1 1 1\n",
            "without faces",
        ),
        "points.obj": (b"v 0 0 0\nv 1 0 0\n", "without faces"),
        "nan.obj": (b"v 0 0 0\nv 1 0 0\nv nan 1 0\nf 1 2 3\n", "1 of 3 vertices with NaN"),
        "inf.obj": (b"v 0 0 0\nv 1 0 0\nv 0 inf 0\nf 1 2 3\n", "infinite"),
        "huge.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1e35 0\nf 1 2 3\n", "absurd"),
        "beyond.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 7\n", "beyond.obj"),
        "line.obj": (b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\nf 1 1 2\n", "no face with an area"),
        "unknown.xyz": (b"0 0 0\n", "no mesh file by its suffix"),
    }


def test_bad_files_are_refused_in_one_line(tmp_path):
    for name, (content, expected) in bad_files(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            load_mesh_file(path)
        message = str(caught.value)
        assert str(path) in message and expected in message and "\n" not in message, (name, message)
        assert "Traceback" not in message and len(message) < 500


@pytest.mark.parametrize("suffix", FORMATS)
def test_whatever_is_in_a_file_it_is_read_or_refused(tmp_path, suffix):
    good = write(tmp_path / f"good.{suffix}").read_bytes()
    rng = np.random.default_rng(7)
    for number in range(60):
        content = bytearray(good)
        for place in rng.integers(len(content), size=(1, 5, 40)[number % 3]):
            content[place] = rng.integers(256)
        path = tmp_path / f"bad{number}.{suffix}"
        path.write_bytes(content[: rng.integers(1, len(content))] if number % 4 == 0 else content)
        try:
            mesh, _ = find_parts(load_mesh_file(path))
        except InputError as error:
            refused = str(error)
            assert path.name in refused, refused
            continue
        assert np.isfinite(concatenated(mesh)[0]).all()


@pytest.mark.parametrize("place", ["missing.obj", "folder.obj"])
def test_what_is_no_file_is_refused(tmp_path, place):
    (tmp_path / "folder.obj").mkdir()
    with pytest.raises(InputError, match="not a file"):
        load_mesh_file(tmp_path / place)


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.stl")
    with pytest.raises(InputError, match="not a file"):
        load_mesh_file(tmp_path / "pipe.stl")


def test_an_unknown_up_axis_is_refused(tmp_path):
    with pytest.raises(InputError, match="'w'"):
        load_mesh_file(tmp_path / "x.obj", up="w")


def test_degenerate_and_repeated_faces_are_left_out_and_counted(tmp_path):
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 9 9 9\nf 1 2 3\nf 2 3 1\nf 3 2 1\nf 1 1 2\nf 1 2 2\n"
    (tmp_path / "model.obj").write_text(text)
    loaded = load_mesh_file(tmp_path / "model.obj")
    vertices, faces, _ = concatenated(loaded.mesh)
    assert len(faces) == 2 and len(vertices) == 3, "the other side stays, the unused vertex goes"
    assert (loaded.provenance["degenerate_faces"], loaded.provenance["repeated_faces"]) == (2, 1)


def test_a_broken_texture_is_dropped_and_counted(tmp_path):
    picture().save(tmp_path / "wood.png")
    data = (tmp_path / "wood.png").read_bytes()
    (tmp_path / "wood.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "m.mtl").write_text("newmtl wood\nKd 1 0 0\nmap_Kd wood.png\n")
    (tmp_path / "m.obj").write_text("mtllib m.mtl\n" + TWO_TRIANGLES.format("usemtl wood", "usemtl wood"))
    loaded = load_mesh_file(tmp_path / "m.obj")
    assert loaded.provenance["broken_textures"] == 1
    to_glb(loaded.mesh)


def test_the_furniture_loads(furniture):
    rows = read_index(furniture / "index.csv")
    for name in list(rows)[::40]:
        row = rows[name]
        loaded = load_mesh_file(furniture / name, up=row.up_axis or "y", rotation=row.rotation, size_cm=row.size_cm)
        extent = np.ptp(concatenated(loaded.mesh)[0], axis=0)
        if row.size_cm[2]:
            assert extent[1] == pytest.approx(row.size_cm[2], rel=0.05)
