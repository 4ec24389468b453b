"""Procedural furniture: repeatable, varied, standing, held together, and not the same for sources and targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from jr_dist.data.dataset import Dataset, iter_targets, open_dataset, read_sources
from jr_dist.data.part_mesh import concatenated, from_glb
from jr_dist.data.synthesize import primitives
from jr_dist.data.synthesize.generate import GRAMMARS, draw_shape, make_source, make_target, synthesize
from jr_dist.data.synthesize.meshes import part_mesh
from jr_dist.data.synthesize.style import Shape
from jr_dist.errors import InputError
from jr_dist.geometry.frames import apply_transform, canonical_transform, invert_transform
from jr_dist.geometry.joints import Joints, num_connected_components

CATEGORIES = ("chair", "table", "cabinet")
NUM_DRAWN = 250  # shapes a category and role that the statistics below look at


@pytest.fixture(scope="module")
def drawn() -> dict[str, dict[str, list[Shape]]]:
    """Shapes by role and category."""
    return {
        role: {c: [draw_shape(0, role, c, i) for i in range(NUM_DRAWN)] for c in CATEGORIES}
        for role in ("source", "target")
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    path = tmp_path_factory.mktemp("synthetic") / "dataset"
    synthesize(path, num_sources=9, num_targets=60, categories=CATEGORIES, seed=3, num_points=256)
    return open_dataset(path, verify=True)


def contents(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def test_same_seed_same_bytes_another_seed_another_dataset(tmp_path):
    for name, categories, seed in (("a", CATEGORIES, 1), ("b", CATEGORIES[::-1], 1), ("c", CATEGORIES, 2)):
        synthesize(tmp_path / name, num_sources=6, num_targets=12, categories=categories, seed=seed, num_points=128)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert sorted(a) != [] and all(a[name] != c[name] for name in a if name in c)


def test_a_larger_dataset_begins_with_the_smaller_one(dataset, tmp_path):
    synthesize(tmp_path / "large", num_sources=12, num_targets=90, categories=CATEGORIES, seed=3, num_points=256)
    large = open_dataset(tmp_path / "large")
    sources = {s.id: s for s in read_sources(large)}
    for source in read_sources(dataset):
        other = sources[source.id]
        assert source.mesh_glb == other.mesh_glb
        assert source.points.tobytes() == other.points.tobytes()
    targets = {t.id: t for split in ("train", "val", "test") for t in iter_targets(large, split)}
    for target in iter_targets(dataset, "train"):
        assert target.points.tobytes() == targets[target.id].points.tobytes()


def test_counts_are_shared_evenly_and_split_80_10_10(dataset):
    assert dataset.manifest.counts == {"sources": 9, "train": 48, "val": 6, "test": 6}
    for category in CATEGORIES:
        assert dataset.manifest.categories[category] == {"sources": 3, "train": 16, "val": 2, "test": 2}


def test_sources_and_targets_are_drawn_apart():
    one, two = draw_shape(0, "source", "chair", 0), draw_shape(0, "target", "chair", 0)
    assert one.parameters != two.parameters
    assert draw_shape(0, "source", "chair", 1).parameters != one.parameters


def test_two_to_sixteen_parts_with_names_of_their_own(drawn):
    for shapes in drawn.values():
        for shape in (s for group in shapes.values() for s in group):
            names = [part.name for part in shape.parts]
            assert 2 <= len(names) <= 16
            assert len(set(names)) == len(names), (shape.structure, names)
    counts = {len(s.parts) for group in drawn["source"].values() for s in group}
    assert counts == set(range(2, 17))


def test_solids_are_finite_closed_and_turned_outwards(drawn):
    for category in CATEGORIES:
        for shape in drawn["source"][category][:80]:
            for part in shape.parts:
                for solid, _ in part.pieces:
                    assert np.isfinite(solid.vertices).all(), (shape.structure, part.name)
                    mesh = trimesh.Trimesh(*solid, process=False)
                    assert mesh.is_watertight, (shape.structure, part.name)
                    assert mesh.is_winding_consistent, (shape.structure, part.name)
                    assert mesh.volume > 0, (shape.structure, part.name)


def test_everything_stands_on_the_floor(drawn):
    for category in CATEGORIES:
        for shape in drawn["source"][category]:
            lowest = min(solid.vertices[:, 1].min() for part in shape.parts for solid, _ in part.pieces)
            assert -1e-9 <= lowest < 0.005, (shape.structure, lowest)


def test_no_part_floats(drawn):
    """Boxes of parts that touch overlap: their graph is connected, to half a millimetre."""
    for role in drawn.values():
        for shape in (s for group in role.values() for s in group):
            points = [np.concatenate([solid.vertices for solid, _ in part.pieces]) for part in shape.parts]
            low, high = np.array([p.min(axis=0) for p in points]), np.array([p.max(axis=0) for p in points])
            gap = np.maximum(low[:, None], low[None]) - np.minimum(high[:, None], high[None])
            pairs = np.argwhere((gap <= 5e-4).all(axis=-1))
            joints = Joints(pairs, np.zeros((len(pairs), 2, 3)))
            assert num_connected_components(joints, len(points)) == 1, shape.structure


def test_joint_graphs_are_connected():
    sources = [make_source(5, category, i, 256) for category in CATEGORIES for i in range(25)]
    connected = [num_connected_components(_joints(s), s.num_parts) == 1 for s in sources]
    assert np.mean(connected) >= 0.97


def _joints(source) -> Joints:
    return Joints(source.joint_parts.astype(np.int64), source.joint_coordinates.astype(np.float64))


def test_canonical_frame(dataset):
    for source in read_sources(dataset):
        low, high = (source.centre - source.half_extent).min(axis=0), (source.centre + source.half_extent).max(axis=0)
        np.testing.assert_allclose(low + high, 0, atol=4e-3)  # the floor of flat parts may stick out
        assert np.linalg.norm(high - low) / 2 == pytest.approx(1, abs=4e-3)
        assert np.isfinite(source.points).all() and np.abs(source.points).max() <= 1
        upright = source.transform[:3, :3]
        np.testing.assert_allclose(upright, upright[0, 0] * np.eye(3))  # back to metres without turning


def test_stored_mesh_has_the_parts_and_their_materials(dataset):
    for source in read_sources(dataset):
        mesh = from_glb(source.mesh_glb)
        assert mesh.names == source.part_names
        vertices, _, _ = concatenated(mesh)
        assert np.linalg.norm(np.ptp(vertices, axis=0)) / 2 == pytest.approx(1, abs=1e-5)
        materials = [piece.visual.material for pieces in mesh.pieces for piece in pieces]
        assert all(m.name.split("_")[0] in ("wood", "metal", "fabric", "plastic", "glass", "rubber") for m in materials)


EXPECTED = {
    "chair": """legs star pedestal sled cantilever slabs crossed plinth solid cushion slats ladder spindles hoop splat
        framed cross shell stool arms headrest""",
    "table": "legs pedestal star sled slabs trestle twin plinth desk round oval planks",
    "cabinet": "floor legs plinth casters sled feet doors drawers open glass etagere handles backless overhang cornice",
}


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_family_occurs(drawn, category):
    words = {w for s in drawn["target"][category] for word in s.family.split("/") for w in word.split("+")}
    assert words == {category, *EXPECTED[category].split()}


def test_variants_occur(drawn):
    structures = " ".join(s.structure for group in drawn["target"].values() for s in group)
    variants = """legs3 legs4-h legs4-box legs4-sides legs4-cross legs4-front-back -through star5-casters star4
        sled-loop arms-posts arms-loops arms-slabs arms-t seat-round seat-framed seat-planks seat-pair
        pedestal-disc pedestal-feet3 legs4-apron legs4-drawers legs4-shelf trestle-a trestle-t-beam trestle-x
        desk-both desk-left desk-right etagere-posts etagere-leaning"""
    assert [v for v in variants.split() if v not in structures] == []


@pytest.mark.parametrize("category", CATEGORIES)
def test_many_targets_have_a_structure_that_no_source_has(drawn, category):
    sources = {s.structure for s in drawn["source"][category]}
    known = np.mean([s.structure in sources for s in drawn["target"][category]])
    assert 0.05 < known < 0.8
    assert len(sources) > 0.25 * NUM_DRAWN


@pytest.mark.parametrize("category", CATEGORIES)
def test_proportions_vary_widely(drawn, category):
    """Height over width spans a factor of 2 between the tenth and the ninetieth percentile."""
    ratios = []
    for shape in drawn["target"][category]:
        extent = np.ptp(np.concatenate([s.vertices for part in shape.parts for s, _ in part.pieces]), axis=0)
        ratios.append(extent[1] / extent[0])
    low, high = np.percentile(ratios, [10, 90])
    assert high / low > 2


def test_scans_are_test_targets_in_frames_of_their_own(dataset):
    scans = sorted(Path(dataset.path, "scans").iterdir())
    clouds = [f for f in scans if f.suffix == ".ply"]
    assert len(clouds) == 6 and len(scans) == 7
    targets = {t.id: t for t in iter_targets(dataset, "test")}
    for file in clouds:
        points = np.asarray(trimesh.load(file).vertices)
        target = targets[file.stem]
        assert np.abs(points.mean(axis=0)).max() > 0.05  # not in the canonical frame
        canonical = apply_transform(invert_transform(canonical_transform(points)), points)
        distance = np.linalg.norm(target.points[:, None] - canonical[None, ::4], axis=-1).min(axis=1)
        assert np.median(distance) < 0.05
    mesh = from_glb(next(f for f in scans if f.suffix == ".glb").read_bytes())
    assert set(mesh.names) == set(targets[scans[0].stem.removesuffix("-mesh")].provenance["part_names"])


def test_provenance_names_the_structure(dataset):
    for split in ("train", "val", "test"):
        for target in iter_targets(dataset, split):
            assert target.provenance["structure"].startswith(f"{target.category}/")
            assert target.part_index.min() >= 0 and target.part_index.max() < target.provenance["num_parts"]


def test_make_target_samples_the_mesh_it_draws():
    target = make_target(0, "table", 4, 512)
    vertices, faces, _ = concatenated(part_mesh(draw_shape(0, "target", "table", 4)))
    back = apply_transform(target.transform, target.points.astype(float))
    low, high = vertices[faces].min(axis=(0, 1)), vertices[faces].max(axis=(0, 1))
    assert (back >= low - 1e-6).all() and (back <= high + 1e-6).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_sources": 0}, ("num_sources is 0", "1 or more")),
        ({"num_targets": -3}, ("num_targets is -3", "1 or more")),
        ({"num_sources": 2}, ("num_sources is 2 for 3 categories",)),
        ({"categories": ("chair", "sofa")}, ("'sofa'", "cabinet, chair, table")),
        ({"categories": ()}, ("[]", "cabinet, chair, table")),
        ({"categories": ("chair", "chair")}, ("each once",)),
        ({"num_points": 8}, ("num_points is 8", "32 to 65536")),
        ({"num_points": 10**6}, ("num_points is 1000000",)),
        ({"seed": -1}, ("seed is -1", "0 or more")),
    ],
)
def test_wrong_settings_are_refused_and_leave_nothing(tmp_path, change, words):
    arguments = {"num_sources": 6, "num_targets": 12, "categories": CATEGORIES, "seed": 0, "num_points": 128, **change}
    with pytest.raises(InputError) as caught:
        synthesize(tmp_path / "out", **arguments)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_occupied_place_is_refused_before_any_work(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="exists already"):
        synthesize(tmp_path / "out", num_sources=3, num_targets=3, categories=CATEGORIES, seed=0, num_points=64)
    assert [f.name for f in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "mine.txt").exists()


def test_grammars_are_those_of_the_command_line():
    assert set(GRAMMARS) == set(CATEGORIES)


def test_primitives_have_the_volumes_they_should():
    volume = lambda solid: trimesh.Trimesh(*solid, process=False).volume  # noqa: E731
    assert volume(primitives.box((0, 0, 0), (1, 2, 3), segments=5)) == pytest.approx(6)
    assert volume(primitives.bar((0, 0, 0), (0, 2, 0), 0.3, 0.5)) == pytest.approx(0.3)
    assert volume(primitives.bar((0, 0, 0), (0.7, 1, 0.2), 0.1, 0.1, level=True)) == pytest.approx(0.01)
    sides = 64
    polygon = sides / 2 * np.sin(2 * np.pi / sides)  # area of the regular polygon in the unit circle
    assert volume(primitives.rod((0, 0, 0), (1, 2, 2), 0.5, sides=sides)) == pytest.approx(3 * polygon / 4)
    assert volume(primitives.disc((0, 0, 0), 2, 3, 0.5, sides=sides)) == pytest.approx(3 * polygon)
    soft = volume(primitives.cushion((0, 0, 0), (1, 0.2, 1), 0.08))
    assert 0.15 < soft < 0.2
    straight = primitives.tube(np.array([[0, 0, 0], [1, 0, 0], [1, 1e-9, 0], [2, 0, 1.0]]), 0.1, 0.1)
    assert volume(straight) > 0
