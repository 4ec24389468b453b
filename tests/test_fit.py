"""`fit`: what is put in comes back in its own frame, with its names and materials; nothing is ever half written."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from jr_dist.config import Config, load_config
from jr_dist.data.build import build_source
from jr_dist.data.dataset import open_dataset, write_dataset
from jr_dist.data.part_mesh import PartMesh, concatenated, from_glb, to_glb, transformed
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.geometry.chamfer import chamfer_matrix
from jr_dist.geometry.frames import apply_transform, invert_transform, up_axis_rotation
from jr_dist.serve import matching
from jr_dist.serve.fit import fit, result_names
from jr_dist.serve.inputs import find_inputs, observe
from jr_dist.serve.matching import Database, joint_report

NUM_POINTS = 512
NOISE = 1.5  # chamfer x100 of two samplings of one surface by so many points, generously
COLOURS = ((10, 20, 30, 255), (200, 100, 50, 255), (90, 90, 160, 255))


def box(extents, centre, colour) -> trimesh.Trimesh:
    solid = trimesh.creation.box(extents=extents)
    material = PBRMaterial(name="paint", baseColorFactor=list(colour), roughnessFactor=0.5)
    visual = TextureVisuals(uv=np.zeros((len(solid.vertices), 2)), material=material)
    return trimesh.Trimesh(solid.vertices + np.asarray(centre), solid.faces, visual=visual, process=False)


def chair(width: float, height: float) -> PartMesh:
    legs = [
        box((0.1, height, 0.1), (x * (width - 0.1) / 2, height / 2, z * 0.4), COLOURS[0])
        for x in (-1, 1)
        for z in (-1, 1)
    ]
    seat = box((width, 0.1, 0.9), (0, height + 0.05, 0), COLOURS[1])
    back = box((width, 0.8, 0.1), (0, height + 0.5, -0.4), COLOURS[2])
    names = ("leg front left", "leg_2", "leg_3", "leg_4", "seat", "back")
    return PartMesh(names, tuple((piece,) for piece in (*legs, seat, back)))


def table(width: float) -> PartMesh:
    top = box((width, 0.08, 0.8), (0, 0.7, 0), COLOURS[1])
    post = box((0.12, 0.66, 0.12), (0, 0.33, 0), COLOURS[0])
    return PartMesh(("top", "post"), ((top,), (post,)))


MESHES = {"chair-low": chair(0.9, 0.4), "chair-high": chair(0.6, 1.1), "table-a": table(1.2), "table-b": table(2.5)}


@dataclass(frozen=True)
class FakeModel:
    """Retrieves by undeformed chamfer and deforms by a fixed move of all parts: a trained run's methods, no network."""

    store: SourceStore
    shift: float = 0.0
    growth: float = 1.0

    def retrieval_distances(self, points: Tensor) -> Tensor:
        sources = self.store.geometry(np.arange(len(self.store.ids)), num_points=NUM_POINTS).points
        return chamfer_matrix(points, sources)

    def deform(self, points: Tensor, rows: Tensor, store: SourceStore) -> tuple[Tensor, Tensor]:
        geometry = store.geometry(rows.reshape(-1).numpy(), num_points=1)
        shape = (*rows.shape, -1, 3)
        return (geometry.centre + self.shift).view(shape), (geometry.half_extent * self.growth).view(shape)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit") / "dataset"
    sources = [
        build_source(mesh, id=name, category=name.split("-")[0], num_points=NUM_POINTS, seed=0, provenance={})
        for name, mesh in MESHES.items()
    ]
    write_dataset(path, sources, {}, how={"test": True})
    return path


@pytest.fixture(scope="module")
def store(dataset: Path) -> SourceStore:
    return SourceStore.open(open_dataset(dataset), num_points=NUM_POINTS)


@pytest.fixture(autouse=True)
def identity_run(store: SourceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FakeModel(store), monkeypatch)


def use(model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `fit` find `model` in whatever run it is told."""

    def opened(run, *, category, top_k, num_points, **_) -> Database:
        rows = matching.allowed_rows(model.store, category, top_k)
        return Database(str(run), model, model.store, rows, min(num_points, NUM_POINTS))

    monkeypatch.setattr("jr_dist.serve.fit.open_database", opened)


def moved(mesh: PartMesh, *, up: str = "y", scale: float = 1.0, shift=(0.0, 0.0, 0.0)) -> PartMesh:
    """The upright `mesh` as a file in which `up` points up, somewhere else, in other units."""
    transform = np.eye(4)
    transform[:3, :3] = scale * up_axis_rotation(up).T
    transform[:3, 3] = shift
    return transformed(mesh, transform)


def read_result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


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


def test_index_gives_axis_and_rotation(tmp_path: Path) -> None:
    quarter = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    transform = np.eye(4)
    transform[:3, :3] = quarter.T  # the index's rotation undoes it
    (tmp_path / "turned.glb").write_bytes(to_glb(transformed(MESHES["chair-low"], transform)))
    (tmp_path / "lying.glb").write_bytes(to_glb(moved(MESHES["table-a"], up="z")))
    rotation = " ".join(map(str, quarter.ravel()))
    (tmp_path / "index.csv").write_text(
        f"file,category,up_axis,rotation\nturned.glb,chair,y,{rotation}\nlying.glb,table,z,\n"
    )
    by_folder = fit("run", [tmp_path], out=tmp_path / "out", top_k=1, num_points=NUM_POINTS)
    files = [tmp_path / "lying.glb", tmp_path / "turned.glb"]
    by_file = fit("run", files, out=tmp_path / "out", index=tmp_path / "index.csv", top_k=1, num_points=NUM_POINTS)
    assert [x.candidates for x in by_folder] == [x.candidates for x in by_file]
    assert [x.candidates[0].source for x in by_folder] == ["table-a", "chair-low"]
    assert all(x.candidates[0].chamfer_after_x100 < NOISE for x in by_folder)
    found = from_glb((tmp_path / "out" / "turned" / "rank-1.glb").read_bytes())
    wanted = from_glb((tmp_path / "turned.glb").read_bytes())
    np.testing.assert_allclose(concatenated(found)[0], concatenated(wanted)[0], atol=1e-5)


def test_index_that_names_no_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.glb").write_bytes(to_glb(MESHES["table-a"]))
    (tmp_path / "index.csv").write_text("file,up_axis\nscans/scan.glb,z\n")
    with pytest.raises(InputError, match=r"index\.csv names none of the 1 inputs"):
        fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", index=tmp_path / "index.csv", top_k=1)


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


# Opening a run


@dataclass(frozen=True)
class FakeRun:
    """What `open_database` reads of a trained run."""

    config: Config
    dataset_hash: str
    source_ids: tuple[str, ...]
    method: str = "ours"
    has_retrieval: bool = True


def fake_run(store: SourceStore, path: Path, **changes) -> FakeRun:
    config = load_config(None, {"data.path": str(path), "run.path": "run", "model.connectivity": "false"})
    return replace(FakeRun(config, open_dataset(path).hash, tuple(store.ids)), **changes)


def test_run_brings_its_dataset(store: SourceStore, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "load_run", lambda path: fake_run(store, dataset))
    database = matching.open_database("run", category="table", num_points=99999, top_k=2)
    assert [database.store.ids[row] for row in database.rows] == ["table-a", "table-b"]
    assert database.num_points == NUM_POINTS  # no more than are stored
    assert not database.connectivity


def test_moved_dataset_is_named(store: SourceStore, dataset: Path, tmp_path: Path, monkeypatch) -> None:
    run = fake_run(store, dataset)
    gone = load_config(None, {"data.path": str(tmp_path / "gone"), "run.path": "run"})
    monkeypatch.setattr(matching, "load_run", lambda path: replace(run, config=gone))
    with pytest.raises(InputError, match=r"dataset of run RUN: .*gone.*--data"):
        matching.open_database("RUN")
    assert len(matching.open_database("RUN", data=dataset).rows) == 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dataset_hash": "0" * 64}, "is not the one that run RUN was trained on"),
        ({"method": "df", "has_retrieval": False}, "method df, which learns no retrieval"),
    ],
)
def test_runs_that_cannot_fit_are_refused(store, dataset, monkeypatch, changes: dict, expected: str) -> None:
    monkeypatch.setattr(matching, "load_run", lambda path: fake_run(store, dataset, **changes))
    with pytest.raises(InputError, match=expected):
        matching.open_database("RUN")


# Finding and naming inputs


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.glb", "b/a.ply", "c/a.npy"], ["a", "a-2", "a-3"]),
        (["a.glb", "a-2.glb", "b/a.glb"], ["a", "a-2", "a-3"]),
        (["a.glb", "b/a.glb", "a-2.glb"], ["a", "a-2", "a-2-2"]),
        (["Chair.obj", "chair.ply"], ["Chair", "chair-2"]),
        (["scan.v1.ply", "scan.v2.ply"], ["scan.v1", "scan.v2"]),
    ],
)
def test_names_of_results(paths: list[str], names: list[str]) -> None:
    assert result_names([Path(path) for path in paths]) == names


def test_inputs_of_one_stem_each_get_a_folder(tmp_path: Path) -> None:
    for number, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "scan.npy", np.random.default_rng(number).normal(size=(64, 3)))
    results = fit("run", [tmp_path / "one", tmp_path / "two"], out=tmp_path / "out", top_k=1)
    assert [x.path.name for x in results] == ["scan", "scan-2"]
    assert read_result(tmp_path / "out" / "scan-2")["input"] == str(tmp_path / "two" / "scan.npy")


def test_a_folder_stands_for_its_shapes(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    (inputs / "deeper").mkdir(parents=True)
    (inputs / ".hidden").mkdir()
    (inputs / "b.glb").write_bytes(to_glb(MESHES["table-a"]))
    np.savetxt(inputs / "deeper" / "a.xyz", np.random.default_rng(0).normal(size=(64, 3)))
    np.save(inputs / ".hidden" / "c.npy", np.zeros((64, 3)))
    (inputs / "licence.txt").write_text("Free to use.\n")
    (inputs / "texture.png").write_bytes(b"")
    (inputs / "index.csv").write_text("file,category\nb.glb,table\n")
    fit("run", [inputs], out=inputs / "out", top_k=1)
    assert sorted(x.name for x in (inputs / "out").iterdir()) == ["a", "b"]
    # What was written there is no input of the next call.
    found = find_inputs([inputs], out=inputs / "out")
    assert [x.path.name for x in found] == ["b.glb", "a.xyz"]
    assert [x.category for x in found] == ["table", ""]


def test_large_clouds_are_sampled_fairly_and_repeatably(tmp_path: Path) -> None:
    # A million points on a line, denser to the left: a fair sample keeps the density.
    position = np.random.default_rng(0).random(1_000_000) ** 2
    np.save(tmp_path / "cloud.npy", np.column_stack([position, position * 0, position * 0]).astype(np.float32))
    (source,) = find_inputs([tmp_path / "cloud.npy"])
    first, again, other = (observe(source, num_points=2048, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.points, again.points)
    assert not np.array_equal(first.points, other.points)
    assert first.points.shape == (2048, 3) and first.num_file_points == 1_000_000
    assert len(np.unique(first.points[:, 0])) > 2000
    left = (first.points[:, 0] < -0.5).mean()  # the left quarter of the line holds half of the points
    assert abs(left - 0.5) < 5 * 0.5 / np.sqrt(2048)
    half = (first.points[:1024, 0] < -0.5).mean()  # and so does any prefix
    assert abs(half - 0.5) < 5 * 0.5 / np.sqrt(1024)


def test_small_clouds_are_used_whole(tmp_path: Path) -> None:
    np.save(tmp_path / "cloud.npy", np.random.default_rng(0).normal(size=(100, 3)))
    (source,) = find_inputs([tmp_path / "cloud.npy"])
    assert len(np.unique(observe(source, num_points=2048, seed=0).points, axis=0)) == 100


def test_doubtful_input_is_told(tmp_path: Path) -> None:
    cloud = np.random.default_rng(0).random((1000, 3))
    np.save(tmp_path / "stray.npy", np.r_[cloud, [[50, 50, 50]]])
    np.save(tmp_path / "far.npy", cloud + np.array([4e5, 5e6, 0]))
    np.save(tmp_path / "sound.npy", cloud)
    results = fit("run", [tmp_path], out=tmp_path / "out", top_k=1)
    told = {result.path.name: result.warnings for result in results}
    assert "stray points" in told["stray"][0] and "single precision" in told["far"][0]
    assert told["sound"] == ()


# Bad input


def test_bad_inputs_among_several_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.glb").write_bytes(to_glb(MESHES["table-a"]))
    (tmp_path / "cut.glb").write_bytes(to_glb(MESHES["table-a"])[:500])
    (tmp_path / "few.xyz").write_text("0 0 0\n1 1 1\n2 2 2\n")
    results = fit("run", [tmp_path], out=tmp_path / "out", top_k=1)
    assert [x.path.name for x in results] == ["good"]
    assert [x.name for x in (tmp_path / "out").iterdir()] == ["good"]
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped: ")]
    assert len(told) == 2 and "cut.glb" in told[0] and "few.xyz" in told[1]


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "few.xyz").write_text("0 0 0\n1 1 1\n2 2 2\n")
    (tmp_path / "words.glb").write_text("this is no GLB")
    with pytest.raises(InputError, match=r"none of the 2 inputs could be fitted; the first: .*few\.xyz holds 3"):
        fit("run", [tmp_path / "few.xyz", tmp_path / "words.glb"], out=tmp_path / "out", top_k=1)
    assert not (tmp_path / "out").exists()


def write_bad_inputs(folder: Path) -> None:
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    (folder / "empty.ply").write_bytes(b"")
    (folder / "no-faces.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    (folder / "nan.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 nan 0\nf 1 2 3\n")
    (folder / "point.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    np.save(folder / "nan.npy", np.full((64, 3), np.nan))
    np.save(folder / "same.npy", np.ones((64, 3)))
    np.save(folder / "three.npy", np.eye(3))
    (folder / "nothing").mkdir()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("photo.jpg", "ends in .jpg; allowed are"),
        ("empty.ply", "does not begin with 'ply'"),
        ("no-faces.obj", "without faces"),
        ("nan.obj", "NaN"),
        ("point.obj", "no face with an area"),
        ("nan.npy", "64 of 64 points with NaN"),
        ("same.npy", "64 points in one place"),
        ("three.npy", "holds 3 points"),
        ("gone.glb", "does not exist"),
        ("nothing", "holds no shape"),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path: Path, name: str, expected: str) -> None:
    write_bad_inputs(tmp_path)
    with pytest.raises(InputError) as caught:
        fit("run", [tmp_path / name], out=tmp_path / "out", top_k=1)
    message = str(caught.value)
    assert name in message and expected in message and "\n" not in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_k": 0}, "top-k is 0"),
        ({"top_k": 5}, "top-k is 5; the database has 4 sources; ask for at most 4"),
        ({"up": "w"}, "up is 'w'; allowed are y, z, x"),
        ({"num_points": 3}, "num-points is 3"),
        ({"seed": -1}, "seed is -1"),
        ({"index": "gone.csv"}, "gone.csv cannot be read"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, options: dict, expected: str) -> None:
    (tmp_path / "good.glb").write_bytes(to_glb(MESHES["table-a"]))
    with pytest.raises(InputError, match=expected):
        fit("run", [tmp_path / "good.glb"], out=tmp_path / "out", **{"top_k": 1, **options})
    assert not (tmp_path / "out").exists()


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
