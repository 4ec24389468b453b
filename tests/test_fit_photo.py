"""`fit` of a photograph: what is asked of the model, what is written, what is refused."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import test_photo_files
import torch
from fit_cases import MESHES, FakeModel, open_store, read_result, use, write_sources
from image_cases import image_settings
from photo_cases import overlap, put_on, render
from PIL import Image
from torch import Tensor

from jr_dist.data.augment import plain_picture
from jr_dist.data.dataset import open_dataset
from jr_dist.data.image_table import open_images
from jr_dist.data.part_mesh import concatenated, from_glb, to_glb
from jr_dist.data.ray_casting import Camera
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.serve.fit import fit
from jr_dist.serve.inputs import find_inputs
from jr_dist.train.trained import load_run
from jr_dist.train.trainer import train

CAMERA = Camera(35, 20, 3.2, 40)
SIZE = 48


@dataclass(frozen=True)
class PictureModel(FakeModel):
    """Retrieves by the sum of squared differences from a picture of each source, and remembers what it was shown."""

    asked: list[np.ndarray] = field(default_factory=list)

    def retrieval_distances(self, targets: Tensor) -> Tensor:
        self.asked.append(targets.numpy())
        known = np.stack([plain_picture(render(name, CAMERA), SIZE) for name in self.store.ids])
        return ((targets.float() - Tensor(known.astype(np.float32))) ** 2).flatten(1).sum(dim=1)[None]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SourceStore:
    return open_store(write_sources(tmp_path_factory.mktemp("fit")))


@pytest.fixture
def model(store: SourceStore, monkeypatch: pytest.MonkeyPatch) -> PictureModel:
    model = PictureModel(store)
    use(model, monkeypatch, picture_size=SIZE)
    return model


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """chair-low on white, in a JPEG that is wider than high."""
    rgba = np.pad(render("chair-low", CAMERA), ((0, 0), (40, 100), (0, 0)))
    Image.fromarray(put_on(rgba, (250, 250, 250))[..., :3]).save(tmp_path / "photo.jpg", quality=92)
    return tmp_path / "photo.jpg"


def opened(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_photo_gives_the_source_it_shows(
    model: PictureModel, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (result,) = fit("run", [photo], out=tmp_path / "out", top_k=3, pictures=True)
    found = read_result(result.path)
    assert found["kind"] == "photo" and found["transform"] == np.eye(4).tolist()
    assert found["num_file_points"] is found["num_points"] is found["num_source_points"] is None
    assert found["fitting"]["ranked_by"] == "retrieval_distance"
    candidates = found["candidates"]
    assert candidates[0]["source"] == "chair-low"
    distances = [candidate["retrieval_distance"] for candidate in candidates]
    assert distances == sorted(distances) and [x["retrieval_rank"] for x in candidates] == [1, 2, 3]
    names = [f"{name}_x100" for name in ("chamfer_before", "chamfer_after", "chamfer_network", "objective")]
    names += ["one_sided_before_x100", "one_sided_after_x100"]
    assert all(candidate[name] is None for candidate in candidates for name in names)
    assert any("a photo gives no scale" in warning for warning in found["warnings"])
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert said == [f"photo: warning: {warning}" for warning in found["warnings"]]

    # The model as it is in the database, in the canonical frame.
    deformed = concatenated(from_glb((result.path / "rank-1.glb").read_bytes()))[0]
    row = model.store.ids.index("chair-low")
    np.testing.assert_allclose(deformed, concatenated(model.store.mesh(row))[0], atol=1e-6)

    view = found["viewpoint"]
    assert abs(view["azimuth"] - CAMERA.azimuth) < 3 and abs(view["elevation"] - CAMERA.elevation) < 3
    assert view["iou"] > 0.9 and not view["ambiguous"] and view["runner_up"]["iou"] < view["iou"]

    true = np.pad(render("chair-low", CAMERA), ((0, 0), (40, 100), (0, 0)))[..., 3]
    assert overlap(opened(result.path / found["mask"]), true) > 0.96
    assert found["mask_method"] == "background" and found["mask_confidence"] > 0.9
    overlay, given = opened(result.path / found["overlay"]), opened(photo)
    changed = np.abs(overlay.astype(int) - given).max(axis=2) > 8
    assert overlay.shape == given.shape and overlap(255 * changed.astype(np.uint8), true) > 0.9
    assert opened(result.path / "picture.png").shape[1] > 4 * 300
    files = {"result.json", "rank-1.glb", "rank-2.glb", "rank-3.glb", "mask.png", "overlay.png", "picture.png"}
    assert {path.name for path in result.path.iterdir()} == files


def test_the_network_sees_the_crop_of_training(model: PictureModel, tmp_path: Path) -> None:
    rgba = render("table-a", CAMERA)
    Image.fromarray(rgba).save(tmp_path / "cut-out.png")
    fit("run", [tmp_path / "cut-out.png"], out=tmp_path / "out", top_k=1)
    np.testing.assert_array_equal(model.asked[-1], plain_picture(rgba, SIZE)[None])
    # Wherever the object stands in the picture, and whatever colours are hidden by its alpha.
    hidden = np.pad(rgba, ((30, 5), (60, 0), (0, 0)))
    hidden[hidden[..., 3] == 0] = (90, 10, 200, 0)
    Image.fromarray(hidden).save(tmp_path / "elsewhere.png")
    fit("run", [tmp_path / "elsewhere.png"], out=tmp_path / "out", top_k=1)
    np.testing.assert_array_equal(model.asked[-1], model.asked[-2])


def test_a_turned_photo_gives_the_same(model: PictureModel, tmp_path: Path) -> None:
    upright = put_on(render("chair-high", CAMERA), (245, 245, 245))[..., :3]
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left
    Image.fromarray(upright).save(tmp_path / "upright.png")
    Image.fromarray(np.rot90(upright)).save(tmp_path / "turned.png", exif=exif)
    results = fit("run", [tmp_path / "upright.png", tmp_path / "turned.png"], out=tmp_path / "out", top_k=2)
    ranked = [[(x.source, x.retrieval_distance) for x in result.candidates] for result in results]
    assert ranked[0] == ranked[1]
    assert results[0].photo == results[1].photo


def test_what_needs_points_is_refused(model: PictureModel, photo: Path, tmp_path: Path) -> None:
    ways = [(True, False, "refine is"), (False, True, "partial is"), (True, True, "refine and partial are")]
    for refine, partial, names in ways:
        with pytest.raises(InputError, match=f"photo.jpg is a photo, and {names} on"):
            fit("run", [photo], out=tmp_path / "out", top_k=1, refine=refine, partial=partial)
    with pytest.raises(InputError, match="refine and partial and mirror are on"):
        fit("run", [photo], out=tmp_path / "out", top_k=1, refine=True, partial=True, mirror=True)
    (tmp_path / "scan.glb").write_bytes(to_glb(MESHES["table-a"]))
    with pytest.raises(InputError, match=r"scan\.glb is no photo, but run run was trained on pictures"):
        fit("run", [tmp_path / "scan.glb"], out=tmp_path / "out", top_k=1)
    assert not (tmp_path / "out").exists()


def test_a_photo_for_a_run_trained_on_points_is_refused(
    store: SourceStore, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(FakeModel(store), monkeypatch)
    with pytest.raises(InputError, match=r"photo\.jpg is a photo, but run run was trained on points"):
        fit("run", [photo], out=tmp_path / "out", top_k=1)


def test_a_folder_without_shapes_stands_for_its_photos(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("three photos\n")
    assert [x.path for x in find_inputs([tmp_path])] == [photo]
    (tmp_path / "scan.glb").write_bytes(to_glb(MESHES["table-a"]))  # now the picture may be its texture
    assert [x.path.name for x in find_inputs([tmp_path])] == ["scan.glb"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no shape and no photo"):
        find_inputs([tmp_path / "empty"])


@pytest.mark.slow
def test_a_run_trained_on_pictures_fits_a_photo(pictured_dataset: Path, tmp_path: Path) -> None:
    """From the training to the overlay; a cloud is refused by the same run."""
    train(image_settings(pictured_dataset, tmp_path / "run"))
    dataset = open_dataset(pictured_dataset)
    [content] = open_images(dataset, "test", None).png(np.array([0]), np.array([1]))
    (tmp_path / "view.png").write_bytes(content)
    (result,) = fit(tmp_path / "run", [tmp_path / "view.png"], out=tmp_path / "out", top_k=3)
    assert result.photo is not None and result.photo.mask_method == "alpha" and len(result.candidates) == 3
    target = plain_picture(opened(tmp_path / "view.png"), 32)
    model = load_run(tmp_path / "run")
    distances = model.retrieval_distances(torch.from_numpy(target)[None])[0]
    best = sorted(zip(distances.tolist(), model.source_ids))[:3]
    assert [(x.retrieval_distance, x.source) for x in result.candidates] == best
    np.save(tmp_path / "cloud.npy", np.random.default_rng(0).normal(size=(64, 3)))
    with pytest.raises(InputError, match=r"is no photo, but run .* was trained on pictures"):
        fit(tmp_path / "run", [tmp_path / "cloud.npy"], out=tmp_path / "out", top_k=1)


def uniform(alpha: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 64), (200, 100, 50, alpha)).save(buffer, format="PNG")
    return buffer.getvalue()


BAD = {**test_photo_files.BAD, "transparent.png": (uniform(0), "transparent.png: the mask is empty.*PNG whose alpha")}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_refused_in_one_line_and_nothing_written(
    model: PictureModel, tmp_path: Path, name: str
) -> None:
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        fit("run", [tmp_path / name], out=tmp_path / "out", top_k=1)
    assert "\n" not in str(refusal.value) and str(tmp_path / name) in str(refusal.value)
    assert not model.asked and not (tmp_path / "out").exists()


def test_a_bad_picture_among_good_ones_is_skipped(
    model: PictureModel, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    results = fit("run", [tmp_path / "text.png", photo], out=tmp_path / "out", top_k=1)
    assert [result.path.name for result in results] == ["photo"]
    assert "skipped" in capsys.readouterr().err
