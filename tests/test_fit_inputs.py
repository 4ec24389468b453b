"""What `fit` takes: files, folders, an index; bad ones are refused in a line, and skipped among others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fit_cases import (
    MESHES,
    NOISE,
    NUM_POINTS,
    FakeModel,
    moved,
    open_store,
    read_result,
    use,
    write_sources,
)

from jr_dist.data.part_mesh import concatenated, from_glb, to_glb, transformed
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.serve.fit import fit, result_names
from jr_dist.serve.inputs import PHOTO_SUFFIXES, find_inputs, observe


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SourceStore:
    return open_store(write_sources(tmp_path_factory.mktemp("fit")))


@pytest.fixture(autouse=True)
def identity_run(store: SourceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FakeModel(store), monkeypatch)


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


def test_text_files_that_are_no_clouds_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.txt", "deeper/b.csv", "c.XYZ"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("Free to use.\n")
    (tmp_path / "index.csv").write_text("file,category\n")
    (tmp_path / "readme.md").write_text("not ours\n")
    with pytest.raises(InputError, match=r"a\.txt, c\.XYZ, deeper/b\.csv can't be read .*first has no line") as caught:
        find_inputs([tmp_path])
    assert "\n" not in str(caught.value) and "index.csv" not in str(caught.value)
    assert capsys.readouterr().err == "", "once"
    np.save(tmp_path / "good.npy", np.eye(3))
    (source,) = find_inputs([tmp_path])
    assert source.path.name == "good.npy"
    said = capsys.readouterr().err.splitlines()
    names = ["a.txt", "c.XYZ", "deeper/b.csv"]
    assert [line.partition(": has no line of three numbers")[0] for line in said] == [
        f"skipped {tmp_path / name}" for name in names
    ]


def test_a_run_on_points_offers_no_photos(tmp_path: Path) -> None:
    (tmp_path / "scan.pcd").write_text("VERSION 0.7\n")
    with pytest.raises(InputError, match=r"scan\.pcd ends in \.pcd; allowed are .*\.xyz; convert") as caught:
        fit("run", [tmp_path / "scan.pcd"], out=tmp_path / "out", top_k=1)
    assert not any(suffix in str(caught.value) for suffix in PHOTO_SUFFIXES)


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


def test_doubtful_input_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cloud = np.random.default_rng(0).random((1000, 3))
    np.save(tmp_path / "stray.npy", np.r_[cloud, [[50, 50, 50]]])
    np.save(tmp_path / "sound.npy", cloud)
    results = fit("run", [tmp_path], out=tmp_path / "out", top_k=1)
    told = {result.path.name: result.warnings for result in results}
    assert "stray points" in told["stray"][0]
    assert told["sound"] == ()
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert said == [f"{name}: warning: {text}" for name in sorted(told) for text in told[name]]


@pytest.mark.parametrize(
    ("extents", "told"),
    [
        ((1, 0, 0), "all points lie on a line"),
        ((1, 1e-4, 1e-4), "all points lie on a line"),
        ((1, 1, 0), "all points lie in a plane"),
        ((1, 0.01, 1e-4), "all points lie in a plane"),
        ((1, 1, 0.01), None),
        ((1, 0.01, 0.01), None),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_line_and_a_plane_are_told(tmp_path: Path, extents, told: str | None, turned: bool) -> None:
    rng = np.random.default_rng(0)
    cloud = rng.random((500, 3)) * extents
    if turned:  # whichever way it stands
        cloud = cloud @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    np.save(tmp_path / "cloud.npy", 30 * cloud + [2, 70, -5])
    (source,) = find_inputs([tmp_path / "cloud.npy"])
    warnings = observe(source, num_points=64, seed=0).warnings
    assert [text.partition(":")[0] for text in warnings] == ([] if told is None else [told])


@pytest.mark.parametrize("partial", [False, True])
def test_a_source_that_was_nearer_before_is_told(
    tmp_path: Path, store: SourceStore, monkeypatch, capsys: pytest.CaptureFixture[str], partial: bool
) -> None:
    (tmp_path / "scan.glb").write_bytes(to_glb(MESHES["chair-low"]))
    said = {}
    for refine, shift in ((False, 0.0), (False, 0.2), (True, 0.2)):
        use(FakeModel(store, shift=shift), monkeypatch, trained_on_parts=True)
        options = {"top_k": 2, "num_points": NUM_POINTS, "partial": partial, "refine": refine}
        (result,) = fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", **options)
        _, before, after = result.candidates[0].distances(partial=partial)
        said[refine, shift] = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
        assert read_result(result.path)["warnings"] == list(result.warnings)
        assert len(said[refine, shift]) == len(result.warnings) == int(after > before and not refine)
    (line,) = said[False, 0.2]
    assert line.startswith("scan: warning: rank 1 is worse than undeformed (") and line.endswith("; add --refine")


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
    (folder / "model.step").write_bytes(b"ISO-10303-21;")
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
        ("model.step", "ends in .step; allowed are"),
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
