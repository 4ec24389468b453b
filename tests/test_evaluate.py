"""The protocol on small worlds whose answers are known: oracle, baselines, counting, refusals."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_cases import NUM_POINTS, BoxModel, FakeStore, all_fits, settings, sources, targets

from jr_dist.data.dataset import open_dataset, write_dataset
from jr_dist.errors import InputError
from jr_dist.evaluate import oracle, protocol
from jr_dist.evaluate.measure import Contender, Rules
from jr_dist.evaluate.measure import measure as measure_contender
from jr_dist.evaluate.oracle import Cases
from jr_dist.evaluate.protocol import BLOCKS, FILES, evaluate
from jr_dist.evaluate.tables import from_json
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer
from jr_dist.geometry.projection import part_parameters


@pytest.fixture(scope="module")
def store() -> FakeStore:
    return FakeStore(sources(8))


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    return torch.from_numpy(np.stack([target.points for target in targets(5)]))


def model_of(store: FakeStore, **fields) -> BoxModel:
    return BoxModel(settings("data", "run"), "hash", store.ids, store, **fields)


def whole(points: torch.Tensor) -> Cases:
    return Cases(points, points, np.ones(len(points)))


def test_fits_equal_a_brute_loop(store, points):
    model = model_of(store, offset=0.01)
    rows = np.array([[s, (s + 3) % 8] for s in range(len(points))])
    fits = oracle.fits_of(model, store, whole(points), rows)
    for (t, k), s in np.ndenumerate(rows):
        geometry = store.geometry([s])
        centre, half_extent = model.deform(points[t : t + 1], torch.tensor([[s]]), store)
        alone = chamfer(deform(geometry, centre[0], half_extent[0]), points[t : t + 1]).item()
        assert fits.chamfer[t, k] == fits.observed[t, k] == pytest.approx(alone, rel=1e-6)


def test_the_oracle_is_the_best_of_all(store, points):
    model = model_of(store, offset=0.01)
    fit = all_fits(model, store, points)
    order = np.argsort(-fit, axis=1)  # the worst first: the order must not matter
    best = oracle.oracle(model, store, whole(points), order, k=3)
    np.testing.assert_array_equal(best.rows, np.argsort(fit, axis=1, kind="stable")[:, :3])
    np.testing.assert_allclose(best.chamfer, np.sort(fit, axis=1)[:, :3], rtol=1e-6)


def test_undeformed_chamfer_equals_a_brute_loop(store, points):
    found = oracle.undeformed_chamfer(store, points, max_pairs=3)
    for t in range(len(points)):
        for s in range(len(store.ids)):
            alone = chamfer(store.geometry([s]).points, points[t : t + 1]).item()
            assert found[t, s] == pytest.approx(alone, rel=1e-6)


def every(points: torch.Tensor) -> np.ndarray:
    return np.tile(np.arange(8), (len(points), 1))


def test_scaling_as_a_whole_keeps_joints_closed_and_moving_a_part_opens_them(store, points):
    assert oracle.fits_of(model_of(store), store, whole(points), every(points)).gap.max() < 1e-5

    class Torn(BoxModel):
        def deform(self, points, rows, store):
            centre, half_extent = super().deform(points, rows, store)
            return centre + torch.tensor([0.5, 0, 0]) * (torch.arange(centre.shape[2]) == 0)[:, None], half_extent

    torn = oracle.fits_of(Torn(settings("d", "r"), "h", store.ids, store), store, whole(points), every(points))
    assert torn.gap.min() == pytest.approx(0.5, abs=1e-5)


def test_parts_at_the_least_scale_are_seen(store, points):
    class Shrunk(BoxModel):
        def deform(self, points, rows, store):
            centre, half_extent = super().deform(points, rows, store)
            geometry = store.geometry(rows.reshape(-1).numpy())
            return centre, (geometry.half_extent * oracle.FLOOR).view(half_extent.shape)

    shrunk = Shrunk(settings("d", "r"), "h", store.ids, store)
    assert (oracle.fits_of(shrunk, store, whole(points), every(points)).at_floor == 1).all()
    assert (oracle.fits_of(model_of(store), store, whole(points), every(points)).at_floor == 0).all()


def test_the_floor_is_where_deformations_stop(store):
    geometry = store.geometry(range(8))
    delta = torch.zeros(*geometry.centre.shape[:2], 6)
    delta[..., 3:] = -100.0
    _, half_extent = part_parameters(geometry, delta, connectivity=False)
    kept = (half_extent / geometry.half_extent)[geometry.part_mask]
    torch.testing.assert_close(kept, torch.full_like(kept, oracle.FLOOR))


def test_box_recovers_sources_scaled_along_the_axes(store):
    scaled = store.geometry(range(8)).points * torch.tensor([0.7, 1.2, 1.1]) + torch.tensor([0.1, 0.0, -0.2])
    rules = Rules(num_points=NUM_POINTS, ido=False, iterations=1, prior_weight=0.1, mirror=False)
    box, nearest = measure_contender(store, Contender(None, None), [whole(scaled)], "full", rules)
    assert (box.method, nearest.method) == ("Box", "Nearest chamfer")
    assert box.retrieved is not None and nearest.retrieved is not None
    np.testing.assert_array_equal(box.retrieved, nearest.retrieved)
    right = box.retrieved == np.array(store.ids)
    assert right.any() and box.fits["top-1"][right].max() < 1e-10


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("evaluate") / "dataset"
    split = {"train": targets(4, 200), "val": targets(2, 300), "test": targets(6, 400)}
    write_dataset(path, sources(8), split, how={"made": "for tests"})
    return path


@pytest.fixture
def world(dataset, tmp_path, monkeypatch):
    """A function that lays out run directories of known models, to be loaded by `evaluate`."""
    known: dict[Path, BoxModel | InputError] = {}

    def load(path, device="cpu"):
        found = known[Path(path)]
        if isinstance(found, InputError):
            raise found
        return found

    monkeypatch.setattr(protocol, "load_run", load)

    def run(name: str, method: str, seed: int = 0, *, broken: str = "", kind=BoxModel, **fields) -> Path:
        path = tmp_path / name
        path.mkdir()
        overrides = {key: fields.pop(key) for key in list(fields) if "__" in key}
        config = settings(dataset, path, train__method=method, train__seed=seed, **overrides)
        (path / "config.yaml").write_text(config.to_yaml())
        chosen = config.data.categories
        own = FakeStore([record for record in sources(8) if chosen is None or record.category in chosen])
        fields.setdefault("dataset_hash", open_dataset(dataset).hash)
        known[path] = InputError(broken) if broken else kind(config, source_ids=own.ids, store=own, **fields)
        return path

    return run


def measure(runs, out, **options):
    options = {"resamples": 200, "ido": False, **options}
    return evaluate(runs, out=out, num_points=NUM_POINTS, progress=io.StringIO(), **options)


def value(tables, method, retrieval="top-1", category="all", seed=0):
    (row,) = (
        row
        for row in tables.rows
        if (row.method, row.retrieval, row.category) == (method, retrieval, category) and row.seed in (seed, None)
    )
    return row.chamfer_x100


def test_known_answers_end_to_end(world, tmp_path):
    runs = [world("ours", "ours"), world("uniform", "uniform", ranks_by="reverse"), world("df", "df")]
    tables = measure(runs, tmp_path / "out")
    # All three deform alike, by scaling to the box: so DF on the nearest is Box, all oracles agree, and a retrieval by
    # the fit is the oracle while the reverse is the worst there is.
    assert value(tables, "Nearest chamfer+DF") == pytest.approx(value(tables, "Box"), rel=1e-5)
    best = value(tables, "DF", "oracle")
    assert (
        value(tables, "Ours") == value(tables, "Ours", "oracle") == value(tables, "Uniform Sampling", "oracle") == best
    )
    assert value(tables, "Uniform Sampling") > value(tables, "Nearest chamfer+DF") > best
    assert value(tables, "Nearest chamfer") > value(tables, "Box")
    ours, uniform = (
        next(row for row in tables.rankings if (row.method, row.category) == (name, "all"))
        for name in ("Ours", "Uniform Sampling")
    )
    assert (ours.recall_at_1, ours.mean_oracle_rank, ours.regret_x100) == (1.0, 1.0, 0.0)
    assert (uniform.recall_at_5, uniform.mean_oracle_rank) == (0.0, 8.0)
    assert all(row.max_joint_gap < 1e-5 and row.share_at_floor == 0 for row in tables.sanity)
    assert {gap.method for gap in tables.absent} == {"R", "R+DF", "DAR", "DAR+DF", "Ours w/ IDO"}
    assert [row.connected for row in tables.databases] == [1.0]
    difference = next(
        row
        for row in tables.comparisons
        if (row.against, row.retrieval, row.category) == ("Nearest chamfer+DF", "top-1", "all")
    )
    assert difference.difference_x100 == pytest.approx(best - value(tables, "Nearest chamfer+DF"))


def test_best_of_k_falls_and_re_ranking_equals_it_on_full_clouds(world, tmp_path):
    tables = measure([world("uniform", "uniform", ranks_by="first")], tmp_path / "out")
    ks = [value(tables, "Uniform Sampling", f"best-of-{k}") for k in (1, 2, 5)]
    assert value(tables, "Uniform Sampling") == ks[0] >= ks[1] >= ks[2] >= value(tables, "Uniform Sampling", "oracle")
    # There are 8 sources, so the first 10 are all of them, and there is no best of 10.
    assert value(tables, "Uniform Sampling", "reranked") == value(tables, "Uniform Sampling", "oracle")
    assert "best-of-10" not in {row.retrieval for row in tables.rows}
    (collapsed,) = (row for row in tables.rankings if row.category == "all")
    assert collapsed.distinct_sources == 1


def test_every_target_of_the_split_counts(world, tmp_path):
    tables = measure([world("ours", "ours")], tmp_path / "out")
    assert {(row.category, row.n) for row in tables.rows} == {("chair", 3), ("table", 3), ("all", 6)}
    assert tables.categories == ("chair", "table")


def test_four_files_appear_and_agree(world, tmp_path):
    out = tmp_path / "out"
    tables = measure([world("ours", "ours"), world("df", "df")], out, gallery=4)
    assert sorted(path.name for path in out.iterdir()) == sorted((*FILES, BLOCKS))
    assert from_json((out / "tables.json").read_text()) == tables
    assert "**" in (out / "tables.md").read_text()
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4 * 4
    assert page.rstrip().endswith("</html>")


def test_the_same_evaluation_gives_the_same_bytes(world, tmp_path):
    runs = [world("ours", "ours"), world("df", "df")]
    measure(runs, tmp_path / "first", gallery=2)
    measure(runs, tmp_path / "second", gallery=2)
    for name in FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_an_earlier_evaluation_is_replaced_and_other_files_are_not(world, tmp_path):
    run, out = world("ours", "ours"), tmp_path / "out"
    measure([run], out, gallery=0)
    before = (out / "tables.json").read_text()
    measure([run], out, gallery=0, seed=5)
    assert (out / "tables.json").read_text() != before
    (out / "my-notes.txt").write_text("mine")
    with pytest.raises(InputError, match="my-notes"):
        measure([run], out)
    assert (out / "my-notes.txt").read_text() == "mine"


def test_nothing_is_left_half_written(world, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("disk full")

    run = world("ours", "ours")
    monkeypatch.setattr(protocol, "to_csv", fail)
    with pytest.raises(RuntimeError):
        measure([run], tmp_path / "out", gallery=0)
    assert os.listdir(tmp_path / "out") == [BLOCKS]


def test_seeds_have_rows_of_their_own_and_pooled_comparisons(world, tmp_path):
    runs = [world(f"{m}{s}", m, s, offset=0.01 * s) for m in ("ours", "uniform") for s in (0, 1)]
    tables = measure(runs, tmp_path / "out", gallery=0)
    assert {row.seed for row in tables.rows if row.method == "Ours"} == {0, 1}
    assert value(tables, "Ours", seed=1) > value(tables, "Ours", seed=0)
    pooled = next(
        row for row in tables.summary if (row.method, row.retrieval, row.category) == ("Ours", "top-1", "all")
    )
    assert pooled.seeds == (0, 1)
    assert pooled.chamfer_x100 == pytest.approx(np.mean([value(tables, "Ours", seed=s) for s in (0, 1)]))
    against = next(row for row in tables.comparisons if row.against == "Uniform Sampling")
    assert against.seeds == (0, 1) and against.difference_x100 == pytest.approx(0, abs=1e-9)


def test_the_paper_s_letter_has_a_row_beside_ours(world, tmp_path):
    runs = [world("ours", "ours"), world("paper", "ours", ranks_by="first", retrieval__loss="l1")]
    tables = measure(runs, tmp_path / "out", gallery=0)
    assert value(tables, "Ours (paper's letter)") > value(tables, "Ours")
    assert "Ours (paper's letter)" in {row.against for row in tables.comparisons}


def test_a_run_a_category_is_put_together(world, tmp_path):
    runs = [
        world("chairs", "ours", data__categories="chair"),
        world("tables", "ours", data__categories="table"),
        world("some", "uniform", data__categories="table"),
    ]
    tables = measure(runs, tmp_path / "out", gallery=2)
    assert next(row.n for row in tables.rows if (row.method, row.category) == ("Ours", "all")) == 6
    assert {row.category for row in tables.rows if row.method == "Uniform Sampling"} == {"table"}
    assert {row.num_sources for row in tables.rankings} == {4}
    assert [row.categories for row in tables.databases] == [("chair",), ("table",)]
    reasons = {(gap.category, gap.reason) for gap in tables.absent if gap.method == "Uniform Sampling"}
    assert reasons == {("chair", "no run of it was trained on chair"), ("all", "no run of it covers chair")}


def test_a_run_that_can_t_be_loaded_is_absent_with_its_reason(world, tmp_path, capsys):
    runs = [world("ours", "ours"), world("df", "df", broken="run df has no checkpoint; train it")]
    tables = measure(runs, tmp_path / "out", gallery=0)
    gaps = {(gap.method, gap.retrieval, gap.reason) for gap in tables.absent if gap.seed == 0}
    reason = "run df has no checkpoint; train it"
    assert gaps == {("DF", "oracle", reason), ("Nearest chamfer+DF", "top-1", reason)}
    assert reason in (tmp_path / "out" / "tables.md").read_text()
    assert reason in (tmp_path / "out" / "report.html").read_text()
    assert capsys.readouterr().err.count(f"left out of the tables: {reason}") == 1


def test_a_run_that_returns_nan_is_absent_with_its_reason(world, tmp_path):
    class Broken(BoxModel):
        def deform(self, points, rows, store):
            centre, half_extent = super().deform(points, rows, store)
            return centre * float("nan"), half_extent

    runs = [world("ours", "ours"), world("uniform", "uniform", kind=Broken, ranks_by="first")]
    tables = measure(runs, tmp_path / "out", gallery=0)
    assert {gap.retrieval for gap in tables.absent if gap.method == "Uniform Sampling"} == {"top-1", "oracle"}
    assert all("not finite" in gap.reason for gap in tables.absent if gap.method == "Uniform Sampling")


def test_settings_that_differ_are_named(world, tmp_path):
    runs = [world("ours", "ours", train__epochs=30), world("uniform", "uniform", train__epochs=40)]
    tables = measure(runs, tmp_path / "out", gallery=0)
    assert any("train.epochs: 30 for Ours (seed 0); 40 for Uniform" in note for note in tables.notes)
    assert json.loads((tmp_path / "out" / "tables.json").read_text())["runs"][0]["settings"]["train.epochs"] == 30


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda w: [], {}, "no run was given"),
        (lambda w: [w("a", "ours", broken="run a has no checkpoint")], {}, "no checkpoint"),
        (lambda w: [w("a", "ours")] * 2, {}, "more than once"),
        (lambda w: [w("a", "ours"), w("b", "ours")], {}, "both Ours with seed 0"),
        (lambda w: [w("a", "ours"), w("b", "df", dataset_hash="f" * 64)], {}, "different datasets"),
        (lambda w: [w("a", "ours", dataset_hash="f" * 64)], {}, "was trained on dataset ffffffffffff"),
        (lambda w: [w("a", "ours"), w("b", "df", data__categories="chair")], {}, "one database a category"),
        (lambda w: [w("a", "ours")], {"split": "trial"}, "trial"),
        (lambda w: [w("a", "ours")], {"resamples": 3}, "resamples"),
        (lambda w: [w("a", "ours")], {"data": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_input_is_refused_in_one_line_and_leaves_nothing(world, tmp_path, make, options, words):
    runs = make(world)
    with pytest.raises(InputError, match=words) as error:
        measure(runs, tmp_path / "out", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_more_points_than_are_stored_are_refused(world, tmp_path):
    with pytest.raises(InputError, match=f"--num-points {NUM_POINTS}"):
        evaluate([world("ours", "ours")], out=tmp_path / "out", progress=io.StringIO())


def test_an_empty_split_is_refused(world, tmp_path):
    lonely = tmp_path / "lonely"
    write_dataset(lonely, sources(8), {"train": targets(2)}, how={})
    run = world("ours", "ours", dataset_hash=open_dataset(lonely).hash)
    with pytest.raises(InputError, match="test"):
        measure([run], tmp_path / "out", data=lonely)


def test_a_file_in_place_of_the_output_is_refused(world, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="is a file"):
        measure([world("ours", "ours")], tmp_path / "out")


def test_progress_tells_pairs_and_time_left(world, tmp_path):
    stream = io.StringIO()
    evaluate([world("ours", "ours")], out=tmp_path / "out", num_points=NUM_POINTS, gallery=0, progress=stream)
    assert f"{6 * 8 * 2}/{6 * 8 * 2}" in stream.getvalue() and "left=" in stream.getvalue()


def test_a_half_finished_run_is_absent_with_its_reason_and_alone_refused(tiny_run, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(tiny_run, half, symlinks=True)
    manifest = half / "checkpoints" / "last" / "manifest.json"
    tree = json.loads(manifest.read_text())
    tree.pop("sha256")
    tree["config"]["train"] |= {"epochs": 7, "seed": 5}
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
    manifest.write_text(json.dumps(tree | {"sha256": digest}))
    options = {"num_points": 64, "ido": False, "gallery": 0, "progress": io.StringIO()}
    with pytest.raises(InputError, match=r"half finished, at step 6 of 21"):
        evaluate([half], out=tmp_path / "alone", **options)
    tables = evaluate([tiny_run, half], out=tmp_path / "both", **options)
    assert {(gap.method, gap.seed) for gap in tables.absent if "half finished" in gap.reason} == {("Ours", 5)}
    assert {row.seed for row in tables.rows if row.method == "Ours"} == {0}


def test_blocks_of_an_evaluation_that_is_replaced_are_removed(world, tmp_path):
    run, out = world("ours", "ours"), tmp_path / "out"
    measure([run], out, gallery=0)
    first = set((out / BLOCKS).iterdir())
    measure([run], out, gallery=0, seed=5)
    assert first and not first & set((out / BLOCKS).iterdir())
