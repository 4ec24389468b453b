"""`fit`: what is put in comes back in its own frame, with names and materials; nothing is ever half written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import trimesh
from fit_cases import (
    COLOURS,
    MESHES,
    NOISE,
    NUM_POINTS,
    FakeModel,
    box,
    chair,
    moved,
    open_store,
    read_result,
    use,
    write_sources,
)
from PIL import Image

from jr_dist.data.build import build_source
from jr_dist.data.part_mesh import PartMesh, concatenated, from_glb, to_glb
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.geometry.frames import apply_transform, invert_transform
from jr_dist.serve.fit import fit
from jr_dist.serve.matching import joint_report


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SourceStore:
    return open_store(write_sources(tmp_path_factory.mktemp("fit")))


@pytest.fixture(autouse=True)
def identity_run(store: SourceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FakeModel(store), monkeypatch)


def test_a_source_comes_back_in_the_frame_of_the_input(tmp_path: Path) -> None:
    wanted = moved(MESHES["chair-low"], up="z", scale=37.0, shift=(5.0, -200.0, 1000.0))
    (tmp_path / "scan.glb").write_bytes(to_glb(wanted))
    (result,) = fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", up="z", top_k=3, num_points=NUM_POINTS)

    found = from_glb((tmp_path / "out" / "scan" / "rank-1.glb").read_bytes())
    assert found.names == wanted.names
    np.testing.assert_allclose(concatenated(found)[0], concatenated(wanted)[0], atol=1e-3)
    for ours, theirs in zip(found.pieces, wanted.pieces):
        np.testing.assert_array_equal(
            ours[0].visual.material.baseColorFactor, theirs[0].visual.material.baseColorFactor
        )
        assert ours[0].visual.material.name == "paint"
    best = result.candidates[0]
    assert best.source == "chair-low" and best.retrieval_rank == 1
    assert best.chamfer_after_x100 == best.chamfer_before_x100 < NOISE
    assert result.candidates[1].chamfer_after_x100 > 2 * best.chamfer_after_x100


def test_a_georeferenced_scan_is_fitted_where_it_stands(tmp_path: Path) -> None:
    wanted = moved(MESHES["table-a"], up="z", scale=0.8, shift=(563214.37, 312.55, 5401882.91))
    vertices, faces, _ = concatenated(wanted)
    near = vertices - vertices[0]  # sampled there: trimesh is not to round either
    points = vertices[0] + trimesh.Trimesh(near, faces, process=False).sample(4000, seed=1)
    np.savetxt(tmp_path / "utm.xyz", points, fmt="%.6f")
    (result,) = fit("run", [tmp_path / "utm.xyz"], out=tmp_path / "out", up="z", top_k=1, num_points=NUM_POINTS)
    assert result.warnings == ()
    path = tmp_path / "out" / "utm" / "rank-1.glb"
    found = from_glb(path.read_bytes())
    assert found.names == wanted.names
    # A cloud's box ends a little before the surface does; what the file holds is exact to the model's parameters.
    np.testing.assert_allclose(concatenated(found)[0], vertices, rtol=0, atol=0.01)
    scene = trimesh.load_scene(path)
    assert sorted(scene.graph.transforms.children["world"]) == sorted(wanted.names)
    to_file = np.array(read_result(path.parent)["transform"])
    for part in result.candidates[0].parts:
        matrix, geometry = scene.graph[part.name]
        corners = apply_transform(invert_transform(to_file), scene.geometry[geometry].vertices + matrix[:3, 3])
        np.testing.assert_allclose((corners.min(0) + corners.max(0)) / 2, part.centre, atol=1e-6)
        np.testing.assert_allclose(np.ptp(corners, axis=0) / 2, part.half_extent, atol=1e-6)


@pytest.mark.parametrize("up", ["x", "y", "z", "-x", "-y", "-z"])
@pytest.mark.parametrize("suffix", [".ply", ".xyz", ".npy", ".npz", ".obj", ".stl", ".off"])
def test_every_format_and_axis_gives_the_same_answer(tmp_path: Path, up: str, suffix: str) -> None:
    wanted = moved(MESHES["table-a"], up=up, scale=0.01, shift=(0.3, 0.2, -0.1))
    vertices, faces, _ = concatenated(wanted)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    points = mesh.sample(4000, seed=1)
    path = tmp_path / f"scan{suffix}"
    if suffix == ".npy":
        np.save(path, points)
    elif suffix == ".npz":
        np.savez(path, points)
    elif suffix == ".xyz":
        np.savetxt(path, points)
    else:
        (trimesh.PointCloud(points) if suffix == ".ply" else mesh).export(path)
    fit("run", [path], out=tmp_path / "out", up=up, top_k=1, num_points=NUM_POINTS)

    result = read_result(tmp_path / "out" / "scan")
    assert result["candidates"][0]["source"] == "table-a"
    found = concatenated(from_glb((tmp_path / "out" / "scan" / "rank-1.glb").read_bytes()))[0]
    # A cloud's box ends a little before the surface does.
    np.testing.assert_allclose(found, vertices, atol=0.01 * 0.02)


def test_result_tells_what_the_glb_shows(tmp_path: Path, store: SourceStore, monkeypatch) -> None:
    use(FakeModel(store, shift=0.1, growth=0.9), monkeypatch)
    (tmp_path / "scan.glb").write_bytes(to_glb(moved(MESHES["chair-low"], scale=3.0, shift=(1, 2, 3))))
    fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", top_k=4, num_points=NUM_POINTS)
    result = read_result(tmp_path / "out" / "scan")

    assert result["input"] == str(tmp_path / "scan.glb")
    after = [candidate["chamfer_after_x100"] for candidate in result["candidates"]]
    assert after == sorted(after) and len(after) == 4
    assert sorted(candidate["retrieval_rank"] for candidate in result["candidates"]) == [1, 2, 3, 4]
    distances = {c["retrieval_rank"]: c["retrieval_distance"] for c in result["candidates"]}
    assert [distances[rank] for rank in sorted(distances)] == sorted(distances.values())
    to_canonical = invert_transform(np.array(result["transform"]))
    for candidate in result["candidates"]:
        mesh = from_glb((tmp_path / "out" / "scan" / candidate["glb"]).read_bytes())
        assert mesh.names == tuple(part["name"] for part in candidate["parts"])
        record = store.record(store.ids.index(candidate["source"]))
        for number, part in enumerate(candidate["parts"]):
            vertices = apply_transform(to_canonical, np.asarray(mesh.pieces[number][0].vertices))
            np.testing.assert_allclose((vertices.min(0) + vertices.max(0)) / 2, part["centre"], atol=1e-5)
            np.testing.assert_allclose(np.ptp(vertices, axis=0) / 2, part["half_extent"], atol=1e-5)
            np.testing.assert_allclose(part["translation"], 0.1, atol=1e-6)
            np.testing.assert_allclose(part["scale"], 0.9, rtol=1e-6)
            np.testing.assert_allclose(
                np.subtract(part["centre"], part["translation"]), record.centre[number], atol=1e-6
            )
        assert candidate["joints_max_gap"] > 1e-3  # shrinking each part about its own centre opens joints
        assert candidate["joint_graph_connected"] and candidate["num_joints"] >= len(mesh.names) - 1
        assert len(candidate["null_space_dimensions"]) == 3 and min(candidate["null_space_dimensions"]) >= 2


def test_chamfer_is_that_of_the_points(tmp_path: Path, store: SourceStore, monkeypatch) -> None:
    use(FakeModel(store, shift=0.05), monkeypatch)
    cloud = np.random.default_rng(0).normal(size=(NUM_POINTS, 3))
    np.save(tmp_path / "cloud.npy", cloud)
    (result,) = fit("run", [tmp_path / "cloud.npy"], out=tmp_path / "out", top_k=1, num_points=NUM_POINTS)
    target = apply_transform(invert_transform(result.transform), cloud)
    assert np.linalg.norm(np.ptp(target, axis=0)) / 2 == pytest.approx(1.0)
    best = result.candidates[0]
    points = store.record(store.ids.index(best.source)).points.astype(float)
    for shift, told in ((0.0, best.chamfer_before_x100), (0.05, best.chamfer_after_x100)):
        squared = ((points[:, None] + shift - target[None]) ** 2).sum(-1)
        assert told == pytest.approx(100 * (squared.min(0).mean() + squared.min(1).mean()), rel=1e-4)


def test_category_restricts_the_search(tmp_path: Path) -> None:
    (tmp_path / "scan.glb").write_bytes(to_glb(MESHES["chair-low"]))
    (result,) = fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", category="table", top_k=2)
    assert {candidate.category for candidate in result.candidates} == {"table"}
    with pytest.raises(InputError, match="category is 'lamp'; allowed are chair, table"):
        fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", category="lamp")
    with pytest.raises(InputError, match="top-k is 3; the database has 2 sources of category table"):
        fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", category="table", top_k=3)


def test_refinement_never_fits_worse(tmp_path: Path, store: SourceStore, monkeypatch) -> None:
    use(FakeModel(store, shift=0.02), monkeypatch)
    (tmp_path / "scan.glb").write_bytes(to_glb(chair(0.8, 0.7)))
    options = {"top_k": 4, "num_points": NUM_POINTS, "pictures": True}
    (plain,) = fit("run", [tmp_path / "scan.glb"], out=tmp_path / "plain", **options)
    (refined,) = fit("run", [tmp_path / "scan.glb"], out=tmp_path / "refined", refine=True, **options)
    by_source = {candidate.source: candidate for candidate in plain.candidates}
    assert {candidate.parameters for candidate in plain.candidates} == {"network"}
    for candidate in refined.candidates:
        assert candidate.chamfer_network_x100 == by_source[candidate.source].chamfer_after_x100
        assert candidate.chamfer_network_x100 is not None
        assert candidate.chamfer_after_x100 <= candidate.chamfer_network_x100
        assert (candidate.parameters == "refined") == (candidate.chamfer_after_x100 < candidate.chamfer_network_x100)
    assert refined.candidates[0].parameters == "refined"
    assert refined.candidates[0].chamfer_after_x100 < 0.5 * plain.candidates[0].chamfer_after_x100
    assert refined.candidates[0].joints.joints_max_gap < 1e-4


def test_pictures_only_where_asked_for(tmp_path: Path) -> None:
    (tmp_path / "scan.glb").write_bytes(to_glb(MESHES["chair-low"]))
    fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", top_k=1)
    assert sorted(x.name for x in (tmp_path / "out" / "scan").iterdir()) == ["rank-1.glb", "result.json"]
    fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", top_k=1, pictures=True)
    with Image.open(tmp_path / "out" / "scan" / "picture.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    thirds = np.array_split(pixels, 3, axis=1)
    assert all((third < 200).any(axis=(0, 1)).all() for third in thirds)  # each of the three shows something


def test_same_input_same_bytes(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(5000, 3))
    np.save(tmp_path / "one.npy", points)
    np.save(tmp_path / "two.npy", points)
    fit("run", [tmp_path / "one.npy"], out=tmp_path / "a", top_k=2)
    fit("run", [tmp_path / "two.npy", tmp_path / "one.npy"], out=tmp_path / "b", top_k=2)
    for name in ("rank-1.glb", "result.json"):
        assert (tmp_path / "a" / "one" / name).read_bytes() == (tmp_path / "b" / "one" / name).read_bytes()
    assert (tmp_path / "a" / "one" / "rank-1.glb").read_bytes() == (tmp_path / "b" / "two" / "rank-1.glb").read_bytes()


# Nothing half written


def test_failing_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scan.glb").write_bytes(to_glb(MESHES["table-a"]))
    whole, written = Path.write_bytes, []

    def full_disk(self: Path, content: bytes) -> int:
        written.append(self.name)
        if self.name == "rank-2.glb":
            raise OSError(28, "No space left on device")
        return whole(self, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", top_k=2)
    assert "rank-1.glb" in written
    assert list((tmp_path / "out").iterdir()) == []


def test_failing_write_keeps_the_earlier_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scan.glb").write_bytes(to_glb(MESHES["table-a"]))
    fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", top_k=2)
    before = {x.name: x.read_bytes() for x in (tmp_path / "out" / "scan").iterdir()}

    def full_disk(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", top_k=1)
    assert {x.name: x.read_bytes() for x in (tmp_path / "out" / "scan").iterdir()} == before
    assert [x.name for x in (tmp_path / "out").iterdir()] == ["scan"]


def test_an_earlier_result_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "scan.glb").write_bytes(to_glb(MESHES["table-a"]))
    fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", top_k=3)
    fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", top_k=1)
    assert sorted(x.name for x in (tmp_path / "out" / "scan").iterdir()) == ["rank-1.glb", "result.json"]


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "scan.glb").write_bytes(to_glb(MESHES["table-a"]))
    (tmp_path / "out" / "scan").mkdir(parents=True)
    (tmp_path / "out" / "scan" / "diary.txt").write_text("dear diary")
    with pytest.raises(InputError, match="exists already"):
        fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", top_k=1)
    assert (tmp_path / "out" / "scan" / "diary.txt").read_text() == "dear diary"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        fit("run", [tmp_path / "scan.glb"], out=tmp_path / "file")


def test_what_others_put_beside_a_result_outlives_the_next_fit(tmp_path: Path) -> None:
    (tmp_path / "scan.glb").write_bytes(to_glb(MESHES["table-a"]))
    words = {"out": tmp_path / "out", "top_k": 2}
    fit("run", [tmp_path / "scan.glb"], pictures=True, **words)
    folder = tmp_path / "out" / "scan"
    (folder / "notes" / "deep").mkdir(parents=True)
    (folder / "notes" / "deep" / "diary.txt").write_text("dear diary")
    (folder / "rank-7.glb").write_bytes(b"mine, whatever its name")
    (folder / "gone").symlink_to("nowhere")
    (folder / "picture.png").write_bytes(b"an older fit's")
    fit("run", [tmp_path / "scan.glb"], **{**words, "top_k": 1})
    assert (folder / "notes" / "deep" / "diary.txt").read_text() == "dear diary"
    assert (folder / "rank-7.glb").read_bytes() == b"mine, whatever its name"
    assert (folder / "gone").readlink() == Path("nowhere")
    written = {"rank-1.glb", "result.json"}
    assert {x.name for x in folder.iterdir()} == {"notes", "rank-7.glb", "gone", *written}
    assert set(read_result(folder)["files"]) == written
    assert [x.name for x in (tmp_path / "out").iterdir()] == ["scan"]
    (folder / "picture.png").write_bytes(b"mine")
    before = {x.name: x.read_bytes() for x in folder.iterdir() if x.is_file()}
    with pytest.raises(InputError, match=r"picture\.png is a file that no fit wrote; .*name another --out"):
        fit("run", [tmp_path / "scan.glb"], pictures=True, **words)
    assert {x.name: x.read_bytes() for x in folder.iterdir() if x.is_file()} == before


@pytest.mark.parametrize("step", ["link", "rename"])
def test_a_crash_between_two_results_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    (tmp_path / "scan.glb").write_bytes(to_glb(MESHES["table-a"]))
    fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", top_k=2)
    folder = tmp_path / "out" / "scan"
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(name)
    before = {x.name: x.read_bytes() for x in folder.iterdir()}
    calls, honest = [], getattr(os, step)

    def dies(*words, **options) -> None:
        calls.append(words)
        if len(calls) == 2:  # the second file, or the second of the two renames
            raise KeyboardInterrupt
        honest(*words, **options)

    monkeypatch.setattr(f"jr_dist.atomic.os.{step}", dies)
    with pytest.raises(KeyboardInterrupt):
        fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", top_k=1)
    assert {x.name: x.read_bytes() for x in folder.iterdir()} == before


def test_where_links_are_not_to_be_had_files_of_others_are_copied(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "scan.glb").write_bytes(to_glb(MESHES["table-a"]))
    fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", top_k=1)
    (tmp_path / "out" / "scan" / "diary.txt").write_text("dear diary")

    def no_links(*_, **__) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("jr_dist.atomic.os.link", no_links)
    fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", top_k=1)
    assert (tmp_path / "out" / "scan" / "diary.txt").read_text() == "dear diary"


def test_the_result_of_another_input_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = np.random.default_rng(0).normal(size=(64, 3))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "c.npy", cloud)
    np.savez(tmp_path / "one" / "c.npz", cloud)
    monkeypatch.chdir(tmp_path / "one")
    fit("run", ["c.npz"], out="../out", top_k=1)
    before = (tmp_path / "out" / "c" / "result.json").read_bytes()
    for folder, name in (("one", "c.npy"), ("two", "c.npy")):
        monkeypatch.chdir(tmp_path / folder)
        with pytest.raises(InputError, match=rf"holds the result of .*one/c\.npz, not of {name}; .*name another --out"):
            fit("run", [name], out="../out", top_k=1)
    assert (tmp_path / "out" / "c" / "result.json").read_bytes() == before
    (tmp_path / "link").symlink_to(tmp_path / "one")
    for same in ("../one/c.npz", str(tmp_path / "one" / "c.npz"), "../link/c.npz"):
        fit("run", [same], out="../out", top_k=1)
    (tmp_path / "out" / "c" / "result.json").write_text('{"input": "c.npz"}')
    with pytest.raises(InputError, match=r"does not say of which input and files it is \(KeyError: 'input_path'\)"):
        fit("run", ["../one/c.npz"], out="../out", top_k=1)


def test_joints_of_a_loose_model_are_told(store: SourceStore) -> None:
    apart = PartMesh(
        ("one", "two"), ((box((1, 1, 1), (0, 0, 0), COLOURS[0]),), (box((1, 1, 1), (3, 0, 0), COLOURS[0]),))
    )
    loose = build_source(apart, id="loose", category="chair", num_points=64, seed=0, provenance={})
    report = joint_report(loose, loose.centre, loose.half_extent)
    assert not report.joint_graph_connected and report.num_joint_groups == 2
    assert report.num_joints == 0 and report.joints_max_gap == 0.0
    assert report.null_space_dimensions == (4, 4, 4)  # a centre and a half-extent for each of two parts
    held = store.record(store.ids.index("table-a"))
    whole = joint_report(held, held.centre, held.half_extent)
    assert whole.joint_graph_connected and whole.num_joints == 1 and whole.joints_max_gap < 1e-6
    assert whole.null_space_dimensions == (3, 3, 3)
