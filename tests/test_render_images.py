"""Pictures as files: the same bytes whoever renders them and however often it was interrupted; read by row and view."""

from __future__ import annotations

import errno
import io
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from jr_dist.cli import main
from jr_dist.data import render_images as module
from jr_dist.data.build import build_source, build_target
from jr_dist.data.dataset import count_rows, open_dataset, read_targets, write_dataset
from jr_dist.data.image_table import open_images
from jr_dist.data.ingest import ingest
from jr_dist.data.part_mesh import PartMesh
from jr_dist.data.render_images import plan_images, render_images
from jr_dist.data.render_shapes import open_shapes
from jr_dist.data.render_views import ViewSettings, depth_picture, parts_picture, png, render_view
from jr_dist.errors import InputError

SETTINGS = ViewSettings(size=16)


@pytest.fixture
def dataset(tiny_dataset, tmp_path) -> Path:
    """A copy of the tiny dataset, to be given pictures."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "dataset"))


def render(path: Path, *, num_views: int = 3, num_workers: int = 0, settings=SETTINGS, **how: Any) -> None:
    how = {"tables": ("sources", "val"), **how}
    render_images(plan_images(open_dataset(path), settings, num_views=num_views, **how), num_workers=num_workers)


def pictures(path: Path) -> dict[str, bytes]:
    files = sorted(x for x in (path / "images").rglob("*") if x.is_file())
    return {str(x.relative_to(path)): x.read_bytes() for x in files}


def test_the_table_gives_what_the_renderer_draws(dataset):
    render(dataset, num_views=10, parts=True, depth=True)
    opened = open_dataset(dataset)
    for table, categories in (("val", None), ("sources", None), ("sources", ("table", "chair"))):
        images, shapes = open_images(opened, table, categories), open_shapes(opened, table, categories)
        assert (len(images), images.num_views, images.size) == (len(shapes), 10, 16)
        rows, views = [len(shapes) - 1, 0, 1, 0], [9, 0, 8, 7]
        drawn = [render_view(shapes.shape(row), view, SETTINGS) for row, view in zip(rows, views)]
        assert images.png(rows, views) == [png(one.rgba) for one in drawn]
        assert images.parts_png(rows, views) == [png(parts_picture(one.part_index)) for one in drawn]
        assert images.depth_png(rows, views) == [png(depth_picture(one.depth)) for one in drawn]
        cameras = [
            (one.camera.azimuth, one.camera.elevation, one.camera.distance, one.camera.field_of_view) for one in drawn
        ]
        np.testing.assert_array_equal(images.cameras(rows, views), np.array(cameras, np.float32))
        assert images.ids(rows) == [shapes.ids[row] for row in rows]
    assert open_images(opened, "val").ids(range(3)) == list(read_targets(opened, "val").ids)
    with Image.open(io.BytesIO(images.png([0], [0])[0])) as picture:
        assert (picture.mode, picture.size) == ("RGBA", (16, 16))
    for rows, views in (([len(images)], [0]), ([0], [10]), ([-1], [0])):
        with pytest.raises(IndexError):
            images.png(rows, views)


def test_a_table_travels_and_is_named_by_what_it_holds(dataset):
    render(dataset)
    opened = open_dataset(dataset)
    images = open_images(opened, "val")
    expected = images.png([0, 1], [0, 2])
    other = pickle.loads(pickle.dumps(images))  # noqa: S301 (ours)
    assert other.png([0, 1], [0, 2]) == expected
    assert images.identity == other.identity == open_images(opened, "val").identity
    assert (
        len({images.identity, open_images(opened, "sources").identity, open_images(opened, "val", ("chair",)).identity})
        == 3
    )
    shutil.rmtree(dataset / "images")
    render(dataset, settings=replace(SETTINGS, seed=1))
    assert open_images(opened, "val").identity != images.identity


def test_pieces_make_the_same_files_as_the_whole(dataset, tmp_path):
    whole = Path(shutil.copytree(dataset, tmp_path / "whole"))
    render(whole, num_views=10)
    render(dataset, num_views=3, tables=("val",))
    render(dataset, num_views=9, tables=("val",))  # adds views
    render(dataset, num_views=10, tables=("sources",), categories=("chair",))
    render(dataset, num_views=10, tables=("sources",), categories=("cabinet", "table"))
    render(dataset, num_views=10)
    assert pictures(dataset) == pictures(whole)


@pytest.fixture
def rendered(monkeypatch) -> list[str]:
    """Paths of the files that are rendered from now on."""
    paths: list[str] = []
    draw = module.FileRenderer.__call__

    def counted(self, task):
        paths.append(task.path)
        return draw(self, task)

    monkeypatch.setattr(module.FileRenderer, "__call__", counted)
    return paths


def test_a_rerun_renders_what_is_missing_or_damaged(dataset, rendered):
    render(dataset)
    before, files = pictures(dataset), sorted(set(rendered))
    assert len(files) == 6
    rendered.clear()
    render(dataset)
    assert rendered == []
    (dataset / files[0]).unlink()
    (dataset / files[2]).write_bytes(before[files[2]][:-20])
    half = bytearray(before[files[4]])
    half[500] ^= 1
    (dataset / files[4]).write_bytes(half)
    render(dataset)
    assert rendered == [files[0], files[2], files[4]]
    assert pictures(dataset) == before


def test_a_full_disk_keeps_what_is_finished(dataset, monkeypatch, rendered):
    write = module.write_file

    def until_full(dataset, path, content):
        if len(rendered) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(dataset, path, content)

    monkeypatch.setattr(module, "write_file", until_full)
    with pytest.raises(
        InputError, match=r"no room for .* \(No space left on device\); the 2 of 6 files .* are kept; make room"
    ):
        render(dataset)
    monkeypatch.setattr(module, "write_file", write)
    with pytest.raises(InputError, match="no finished pictures"):
        open_images(open_dataset(dataset), "val")
    rendered.clear()
    render(dataset)
    assert len(rendered) == 4


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_actors_give_the_same_bytes(dataset, tmp_path, num_workers, ray_cluster):
    here = Path(shutil.copytree(dataset, tmp_path / "here"))
    render(here, num_views=9)
    render(dataset, num_views=9, num_workers=num_workers)
    assert pictures(dataset) == pictures(here)


@pytest.mark.slow
def test_an_error_of_an_actor_is_told_in_one_line(tmp_path, ray_cluster):
    dataset, models = ingested(tmp_path)
    plan = plan_images(open_dataset(dataset), SETTINGS, num_views=1, tables=("train",))
    for file in models.iterdir():
        trimesh.creation.icosphere().export(file)
    with pytest.raises(InputError, match="is another shape now"):
        render_images(plan, num_workers=2)


def test_pictures_that_are_not_there_are_asked_for(dataset, tmp_path):
    opened = open_dataset(dataset)
    with pytest.raises(InputError, match=r"no finished pictures .* run `jr-dist render "):
        open_images(opened, "val")
    render(dataset, categories=("chair",))
    assert open_images(opened, "val", ("chair",)).num_views == 3
    with pytest.raises(InputError, match="no pictures of split val of cabinet, table"):
        open_images(opened, "val")
    with pytest.raises(InputError, match=r"no pictures of split train of chair .* --split train"):
        open_images(opened, "train", ("chair",))
    with pytest.raises(InputError, match=r"have no parts_png; delete images/ and render with --parts"):
        open_images(opened, "val", ("chair",)).parts_png([0], [0])
    with pytest.raises(InputError, match="category 'sofa' is not in"):
        open_images(opened, "val", ("sofa",))
    other = tmp_path / "other"
    assert main(["synthesize", str(other), "--num-sources", "3", "--num-targets", "9", "--num-points", "32"]) == 0
    shutil.copytree(dataset / "images", other / "images")
    with pytest.raises(InputError, match="of another dataset than the one that lies there now"):
        open_images(open_dataset(other), "val")


def test_a_category_with_nothing_in_a_split_needs_no_pictures_there(tmp_path):
    path = tmp_path / "few targets"
    assert main(["synthesize", str(path), "--num-sources", "3", "--num-targets", "9", "--num-points", "32"]) == 0
    opened = open_dataset(path)
    there = [name for name in opened.categories if count_rows(opened, "val", [name])]
    assert 0 < len(there) < len(opened.categories)
    with pytest.raises(InputError, match=r"run `jr-dist render '[^']*/few targets'`"):
        open_images(opened, "val")
    render(path)
    assert len(open_images(opened, "val")) == count_rows(opened, "val")
    with pytest.raises(InputError, match=r"run `jr-dist render '[^']*/few targets' --split train`"):
        open_images(opened, "train")


def test_a_file_that_is_gone_or_damaged_is_named(dataset):
    render(dataset)
    images = open_images(open_dataset(dataset), "val")
    path = next((dataset / "images" / "val").iterdir())
    path.write_bytes(b"no Parquet")
    with pytest.raises(InputError, match=rf"{path.name} is damaged .* run `jr-dist render` again"):
        images.png(range(3), [0, 0, 0])


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"num_views": 0}, "num_views is 0; allowed is 1 to 1000"),
        ({"num_views": 2}, "holds 3 views of cabinet, chair, table in sources, asked for are 2"),
        ({"num_views": 4, "categories": ("chair",)}, "asked for are 4 of chair"),
        ({"settings": ViewSettings(size=32)}, "made with size 16, asked for is 32; allowed is one setting for all"),
        ({"settings": replace(SETTINGS, backend="moderngl")}, "made with backend embree, asked for is moderngl"),
        ({"depth": True}, "made with depth False, asked for is True"),
        ({"tables": ("trial",)}, "split 'trial' is unknown"),
        ({"categories": ("sofa",)}, "category 'sofa' is not in"),
    ],
)
def test_what_does_not_fit_is_refused(dataset, how, told):
    render(dataset)
    before = pictures(dataset)
    with pytest.raises(InputError, match=told):
        render(dataset, **how)
    assert pictures(dataset) == before


def models_in(folder: Path) -> Iterator[tuple[str, trimesh.Scene]]:
    """Tables of two nodes, of different sizes."""
    folder.mkdir()
    for number in range(6):
        scene = trimesh.Scene()
        width = 1 + 0.1 * number
        scene.add_geometry(trimesh.creation.box((width, 0.1, 0.6)), node_name="top")
        foot = trimesh.creation.cylinder(0.1, 0.7)
        foot.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, (1, 0, 0)))
        foot.apply_translation((0, -0.4, 0))
        scene.add_geometry(foot, node_name="foot")
        yield f"table{number}.glb", scene


def ingested(tmp_path: Path) -> tuple[Path, Path]:
    """A dataset of models with an index that turns and resizes them, and their folder."""
    models, out = tmp_path / "models", tmp_path / "ingested"
    lines = ["file,category,up_axis,width_cm,depth_cm,height_cm"]
    for name, scene in models_in(models):
        scene.export(models / name)
        lines.append(f"{name},table,{'z' if name == 'table0.glb' else 'y'},{100 + len(lines)},60,80")
    (models / "index.csv").write_text("\n".join(lines) + "\n")
    ingest(models, out, num_points=64, num_sources=1, local=True, pictures=False)
    (models / "index.csv").unlink()  # what it said is in the dataset
    return out, models


def test_ingested_targets_are_made_again_from_their_files(tmp_path):
    dataset, models = ingested(tmp_path)
    opened = open_dataset(dataset)
    for table in ("train", "val", "test"):
        shapes = open_shapes(opened, table)
        for row in range(len(shapes)):
            shape = shapes.shape(row)  # which compares its points with those that are stored
            assert shape.part_names == ("top", "foot")
            np.testing.assert_allclose(np.linalg.norm(np.ptp(shape.surface.vertices, axis=0)), 2, rtol=1e-5)
    moved = models.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"the file .*models.*\.glb of target .* is gone; .* --models"):
        open_shapes(opened, "train").check()
    open_shapes(opened, "train", models=moved).check()
    open_shapes(opened, "train", models=moved).shape(0)
    (dataset / "ingest.json").unlink()
    with pytest.raises(
        InputError, match="does not say where it was ingested from; name that folder by `jr-dist render --models`"
    ):
        open_shapes(opened, "train").check()


def test_a_file_that_was_changed_is_told_from_the_one_that_was_ingested(tmp_path):
    dataset, models = ingested(tmp_path)
    shapes = open_shapes(open_dataset(dataset), "train")
    path = models / f"{shapes.ids[0]}.glb"
    other = models / f"{shapes.ids[1]}.glb"
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    shapes.check()
    with pytest.raises(InputError, match=rf"target {shapes.ids[0]} is another shape now: .* put the file back"):
        shapes.mesh(0)
    path.write_bytes(content)
    shapes.mesh(0)


def test_clouds_have_no_picture(tmp_path):
    rng = np.random.default_rng(0)
    box = PartMesh(("box",), ((trimesh.creation.box(),),))
    source = build_source(box, id="box", category="box", num_points=64, seed=0, provenance={})
    cloud = build_target(rng.random((100, 3)), id="cloud", category="box", num_points=64, seed=0, provenance={})
    write_dataset(tmp_path / "dataset", [source], {"train": [cloud]}, how={})
    render(tmp_path / "dataset", tables=("sources",))
    with pytest.raises(InputError, match="target cloud is points alone, it does not say which mesh it came from"):
        render(tmp_path / "dataset", tables=("train",))


def test_shapes_of_another_grammar_are_refused(dataset):
    opened = open_dataset(dataset)
    how = {**opened.manifest.how, "grammar_version": 0}
    other = replace(opened, manifest=replace(opened.manifest, how=how))
    with pytest.raises(InputError, match="was drawn by grammar 0, this release has 1; synthesize it again"):
        open_shapes(other, "train").mesh(0)


def test_the_command_renders_and_a_dry_run_only_says_so(dataset, capsys):
    words = ["render", str(dataset), "--size", "16", "--num-views", "2", "--split", "val,test", "--num-workers", "0"]
    assert main([*words, "--dry-run"]) == 0
    assert "would render 12 of 12 pictures of 16 x 16 pixels:\n  val: 6\n  test: 6\n" in capsys.readouterr().out
    assert not (dataset / "images").exists()
    assert main(words) == 0
    assert "rendered 12 pictures" in capsys.readouterr().out
    assert main(words) == 0
    assert "rendered 0 pictures, 12 were there" in capsys.readouterr().out
    with Image.open(dataset / "images" / "contact_sheet.png") as sheet:
        assert sheet.size == (6 * 16, 16 + 18)
    for wrong in (["--size", "0"], ["--num-views", "0"], ["--backend", "vulkan"], ["--split", "none"]):
        assert main([*words, *wrong]) == 2
    assert main(["render", str(dataset / "nothing")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 5
