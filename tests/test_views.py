"""Pictures in the tables: which view a protocol shows, what is counted, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from image_cases import image_settings
from test_train import settings

from jr_dist.compare import plan_comparison
from jr_dist.data.dataset import open_dataset, read_targets
from jr_dist.data.pictures import open_pictures, picture_settings
from jr_dist.errors import InputError
from jr_dist.evaluate.protocol import evaluate
from jr_dist.evaluate.views import (
    IMAGE,
    PICTURE_PROTOCOLS,
    SECTORS,
    UNSEEN,
    check_all_protocols,
    check_shown_alike,
    off_front,
    open_views,
)
from jr_dist.train.trained import load_run
from jr_dist.train.trainer import train


@pytest.mark.parametrize(("azimuth", "off"), [(0, 0), (-30, 30), (190, 170), (-190, 170), (360, 0), (180, 180)])
def test_how_far_off_the_front_a_view_is(azimuth, off):
    assert off_front(azimuth) == pytest.approx(off)


@pytest.mark.parametrize("images", ["files", "render"])
def test_a_view_is_one_of_its_sector_and_depends_on_the_target_alone(pictured_dataset, tmp_path, images):
    dataset = open_dataset(pictured_dataset)
    config = image_settings(pictured_dataset, tmp_path, data__images=images, data__num_views=6)
    views = open_views(dataset, "test", dataset.categories, config.data, PICTURE_PROTOCOLS)
    assert views is not None
    ids = read_targets(dataset, "test").ids
    for row, name in enumerate(ids):
        off = [off_front(views.seen.azimuth(row, view)) for view in range(views.seen.num_views)]
        for protocol, (low, high) in SECTORS.items():
            shown = off[views.view(row, name, protocol, 0)]
            inside = [angle for angle in off if low <= angle <= high]
            distance = [max(low - angle, angle - high, 0) for angle in off]
            assert shown in inside if inside else max(low - shown, shown - high) == min(distance)
        assert views.view(row, name, IMAGE, 0) == views.view(row, name, UNSEEN, 0), "the same view, another look"
    together = views.shown(range(len(ids)), ids, IMAGE, 0)
    assert np.array_equal(views.shown([1], ids[1:2], IMAGE, 0)[0], together[1])
    chosen = [[views.view(row, name, IMAGE, seed) for row, name in enumerate(ids)] for seed in range(8)]
    assert len({tuple(each) for each in chosen}) > 1, "the seed counts"
    # Another look, and neither camera nor shape: where something is stays the same.
    unseen = views.shown(range(len(ids)), ids, UNSEEN, 0)
    assert not np.array_equal(unseen, together)
    filled, white = (together != 255).any(axis=1), (unseen == 255).all(axis=1)
    assert (filled & white).mean() < 0.02


def test_files_and_rendering_tell_the_same_azimuths(pictured_dataset, tmp_path):
    dataset = open_dataset(pictured_dataset)
    both = []
    for images in ("files", "render"):
        config = image_settings(pictured_dataset, tmp_path, data__images=images, data__num_views=3)
        settings_of = picture_settings(config.data)
        assert settings_of is not None
        pictures = open_pictures(dataset, "test", None, settings_of)
        both.append([[pictures.azimuth(row, view) for view in range(3)] for row in range(pictures.num_rows)])
    np.testing.assert_allclose(*both, rtol=1e-6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["image", "full"], r"protocols image, full can't be in one table; allowed are image, image-front"),
        (["image", "image"], "each once"),
        (["picture"], r"protocol 'picture' is unknown; allowed are full, .* and of runs trained on pictures image,"),
    ],
)
def test_protocols_that_can_not_be_are_refused(names, message):
    with pytest.raises(InputError, match=message):
        check_all_protocols(names)


@pytest.mark.slow
def test_runs_that_see_pictures_fill_the_tables(pictured_dataset, tmp_path):
    for method in ("df", "ours", "mds"):
        train(image_settings(pictured_dataset, tmp_path / method, train__method=method))
    runs, out = [tmp_path / method for method in ("df", "ours", "mds")], tmp_path / "out"
    with pytest.raises(InputError, match=r"df was trained on pictures, but .* is full; .* --protocols image"):
        evaluate(runs, out=out, num_points=128)
    tables = evaluate(runs, out=out, num_points=128, protocols=[IMAGE, "image-front", UNSEEN], gallery=3)
    assert tables.protocols == (IMAGE, "image-front", UNSEEN)
    dataset = open_dataset(pictured_dataset)
    assert {row.n for row in tables.summary if row.category == "all"} == {len(read_targets(dataset, "test"))}
    found = {(row.method, row.retrieval) for row in tables.summary}
    top = {method for method, retrieval in found if retrieval == "top-1"}
    assert top == {"R", "R+DF", "Ours"}, "nothing that would look at points"
    assert {method for method, retrieval in found if retrieval == "oracle"} == {"DF", "Ours"}
    assert not any(retrieval == "reranked" for _, retrieval in found), "a picture has no fit to be seen"
    # By hand: the picture's view, the nearest source, the network's deformation, the whole target.
    model = load_run(tmp_path / "ours")
    views = open_views(dataset, "test", dataset.categories, model.config.data, [IMAGE])
    assert views is not None
    targets = read_targets(dataset, "test")
    import torch

    from jr_dist.data.source_store import SourceStore
    from jr_dist.geometry.boxes import deform
    from jr_dist.geometry.chamfer import chamfer

    pictures = torch.from_numpy(views.shown(range(len(targets)), targets.ids, IMAGE, 0))
    store = SourceStore.open(dataset)
    rows = model.retrieval_distances(pictures).argmin(dim=1)
    centre, half = (values[:, 0] for values in model.deform(pictures, rows[:, None], store))
    clouds = deform(store.geometry(rows, num_points=128), centre, half)
    truth = torch.from_numpy(targets.points[:, :128].copy())
    expected = 100 * float(chamfer(clouds, truth).double().mean())
    [row] = [
        r for r in tables.summary if (r.method, r.retrieval, r.category, r.protocol) == ("Ours", "top-1", "all", IMAGE)
    ]
    assert row.chamfer_x100 == pytest.approx(expected, rel=1e-6)
    assert "all that was given" in (out / "report.html").read_text()
    json.loads((out / "tables.json").read_text())


@pytest.mark.slow
def test_a_run_that_sees_points_is_not_shown_pictures(pictured_dataset, tmp_path):
    train(settings(pictured_dataset, tmp_path / "points"))
    with pytest.raises(InputError, match=r"points was trained on points, but evaluate\.protocols is image; allowed"):
        evaluate([tmp_path / "points"], out=tmp_path / "out", num_points=128, protocols=[IMAGE])
    assert not (tmp_path / "out").exists()


def test_a_comparison_that_can_not_be_measured_is_refused_before_it_trains(pictured_dataset, tiny_dataset, tmp_path):
    config = image_settings(pictured_dataset, tmp_path / "runs")
    with pytest.raises(InputError, match=r"was trained on pictures, but evaluate\.protocols is full"):
        plan_comparison(config)
    asked = {"evaluate__protocols": "image,image-unseen", "compare__methods": "ours"}
    assert len(plan_comparison(image_settings(pictured_dataset, tmp_path / "runs", **asked))) == 1
    with pytest.raises(InputError, match=r"has no finished pictures .*; run `jr-dist render"):
        plan_comparison(image_settings(tiny_dataset, tmp_path / "runs", **asked))


def test_runs_that_see_pictures_of_other_kinds_share_no_table(pictured_dataset, tmp_path):
    small = image_settings(pictured_dataset, tmp_path / "small").data
    large = image_settings(pictured_dataset, tmp_path / "large", data__image_size=64).data
    augmented = image_settings(pictured_dataset, tmp_path / "other", data__augment="none").data
    check_shown_alike([("small", small), ("other", augmented)])
    with pytest.raises(InputError, match=r"runs small and large were trained with data\.image_size 32 and 64; allowed"):
        check_shown_alike([("small", small), ("large", large)])
