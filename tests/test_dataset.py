"""Datasets: what is written is read back bit for bit, the same content gives the same bytes, damage is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jr_dist.data import table_writer
from jr_dist.data.dataset import (
    count_rows,
    iter_targets,
    open_dataset,
    read_sources,
    read_targets,
    split_targets,
    write_dataset,
)
from jr_dist.data.records import SourceModel, TargetShape
from jr_dist.errors import InputError

N = 16


def random_source(index: int, category: str = "chair") -> SourceModel:
    rng = np.random.default_rng([index, 1])
    num_parts, num_joints = int(rng.integers(1, 5)), int(rng.integers(0, 4))
    return SourceModel(
        id=f"source-{index}",
        category=category,
        part_names=tuple(f"part {i}" for i in range(num_parts)),
        centre=rng.normal(size=(num_parts, 3)).astype(np.float32),
        half_extent=rng.uniform(0.1, 1, (num_parts, 3)).astype(np.float32),
        points=rng.normal(size=(N, 3)).astype(np.float32),
        part_index=rng.integers(0, num_parts, N).astype(np.int16),
        joint_parts=np.array([[0, num_parts - 1]] * num_joints, np.int32).reshape(-1, 2),
        joint_coordinates=rng.uniform(-1, 1, (num_joints, 2, 3)).astype(np.float32),
        mesh_glb=rng.bytes(int(rng.integers(0, 3000))),
        transform=rng.normal(size=(4, 4)),
        provenance={"file": "stühle/ä.glb", "scale": 0.1, "nested": {"b": [1, None], "a": True}},
    )


def random_target(index: int, category: str = "chair") -> TargetShape:
    rng = np.random.default_rng([index, 2])
    return TargetShape(
        id=f"target-{index}",
        category=category,
        points=rng.normal(size=(N, 3)).astype(np.float32),
        part_index=rng.integers(-1, 5, N).astype(np.int16),
        transform=rng.normal(size=(4, 4)),
        provenance={"index": index},
    )


def category_of(index: int) -> str:
    return ("chair", "table")[index % 2]


SOURCES = [random_source(i, category_of(i)) for i in range(70)]
TARGETS = {
    "train": [random_target(i, category_of(i)) for i in range(150)],
    "val": [random_target(1000 + i, "chair") for i in range(3)],
    "test": [],
}


def write(path: Path | str, **options):
    return write_dataset(path, iter(SOURCES), {k: iter(v) for k, v in TARGETS.items()}, how={"seed": 1}, **options)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "dataset"
    write(path)
    return path


def assert_equal(record, other) -> None:
    """Every field has the same type, shape and bits."""
    assert type(record) is type(other)
    for field in dataclasses.fields(record):
        mine, theirs = getattr(record, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), field.name
            assert mine.tobytes() == theirs.tobytes(), field.name
        else:
            assert mine == theirs, field.name


def files_of(root: Path) -> dict[str, bytes]:
    return {str(x.relative_to(root)): x.read_bytes() for x in sorted(root.rglob("*")) if x.is_file()}


def test_records_come_back_bit_for_bit(written):
    dataset = open_dataset(written, verify=True)
    for before, after in zip(SOURCES, read_sources(dataset), strict=True):
        assert_equal(before, after)
    for split in ("train", "val"):
        for before, after in zip(TARGETS[split], iter_targets(dataset, split), strict=True):
            assert_equal(before, after)


def test_table_of_targets_has_the_rows_of_the_records(written):
    table = read_targets(open_dataset(written), "train")
    expected = TARGETS["train"]
    assert table.ids == tuple(x.id for x in expected)
    assert table.categories == tuple(x.category for x in expected)
    for name, array in [("points", table.points), ("transform", table.transforms), ("part_index", table.part_index)]:
        stacked = np.stack([getattr(x, name) for x in expected])
        assert array.dtype == stacked.dtype
        np.testing.assert_array_equal(array, stacked)


def test_manifest_counts(written):
    dataset = open_dataset(written)
    assert dataset.manifest.counts == {"sources": 70, "train": 150, "val": 3, "test": 0}
    assert dataset.manifest.categories["table"] == {"sources": 35, "train": 75, "val": 0, "test": 0}
    assert dataset.categories == ("chair", "table")
    assert dataset.num_points == N
    assert count_rows(dataset, "train", ["table"]) == 75
    assert count_rows(dataset, "train") == count_rows(dataset, "train", ["table", "chair"]) == 150


def test_categories_filter_rows_and_keep_their_order(written):
    dataset = open_dataset(written)
    assert [x.id for x in read_sources(dataset, ["table"])] == [x.id for x in SOURCES if x.category == "table"]
    table = read_targets(dataset, "train", ["table"])
    assert table.ids == tuple(x.id for x in TARGETS["train"] if x.category == "table")


def test_same_content_same_bytes(written, tmp_path):
    write(tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(written)


def test_hash_names_the_content(written, tmp_path):
    changed = [dataclasses.replace(SOURCES[0], transform=SOURCES[0].transform + 1e-12), *SOURCES[1:]]
    other = write_dataset(tmp_path / "other", changed, TARGETS, how={"seed": 1})
    elsewhere = write_dataset(tmp_path / "elsewhere", SOURCES, TARGETS, how={"seed": 2})
    assert other.hash != open_dataset(written).hash
    assert elsewhere.hash == open_dataset(written).hash  # the same rows, made by another way


def test_plain_pyarrow_reads_the_tensors(written):
    table = pq.read_table(written / "targets" / "train")
    points = np.concatenate([chunk.to_numpy_ndarray() for chunk in table["points"].chunks])
    np.testing.assert_array_equal(points, np.stack([x.points for x in TARGETS["train"]]))
    sources = pq.read_table(written / "sources")
    np.testing.assert_array_equal(np.array(sources["centre"][3].as_py(), np.float32), SOURCES[3].centre)


def test_row_groups_and_files_are_bounded(written, tmp_path, monkeypatch):
    metadata = pq.ParquetFile(written / "targets/train/part-00000.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [64, 64, 22]
    monkeypatch.setattr(table_writer, "_FILE_BYTES", 1)
    monkeypatch.setattr(table_writer, "_GROUP_BYTES", 20_000)
    manifest = write(tmp_path / "split")
    assert len(manifest.table_files("sources")) > 2
    assert [x.rows for x in manifest.table_files("train")] == [64, 64, 22]
    dataset = open_dataset(tmp_path / "split", verify=True)
    assert [x.id for x in read_sources(dataset)] == [x.id for x in SOURCES]
    np.testing.assert_array_equal(
        read_targets(dataset, "train").points, read_targets(open_dataset(written), "train").points
    )


def test_writing_streams(tmp_path):
    """The writer never holds more than one row group, so a source must be collectable soon after it was handed over."""
    import weakref

    alive: weakref.WeakSet[Handle] = weakref.WeakSet()
    most = 0

    class Handle(SourceModel):
        __hash__ = object.__hash__

    def stream():
        nonlocal most
        for index in range(300):
            source = random_source(index)
            handle = Handle(**{f.name: getattr(source, f.name) for f in dataclasses.fields(source)})
            alive.add(handle)
            most = max(most, len(alive))
            yield handle

    write_dataset(tmp_path / "d", stream(), {}, how={})
    assert most <= 2 * table_writer.ROWS_PER_GROUP + 2


def test_failure_while_writing_leaves_nothing(tmp_path):
    def broken():
        yield from SOURCES
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_dataset(tmp_path / "d", broken(), TARGETS, how={})
    assert list(tmp_path.iterdir()) == []


def refuse(words: str, call, *arguments, **options) -> None:
    with pytest.raises(InputError, match=words) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_wrong_input_to_the_writer(written, tmp_path):
    refuse("exists already", write, written)
    refuse("no source", write_dataset, tmp_path / "a", [], TARGETS, how={})
    refuse("comes twice", write_dataset, tmp_path / "a", [SOURCES[0], SOURCES[0]], {}, how={})
    leak = {"train": TARGETS["train"], "test": TARGETS["train"][:1]}
    refuse("target-0.*train and test", write_dataset, tmp_path / "a", SOURCES, leak, how={})
    assert not (tmp_path / "a").exists()


def test_replace(tmp_path):
    write(tmp_path / "d")
    manifest = write_dataset(tmp_path / "d", SOURCES[:2], {}, how={}, replace=True)
    assert open_dataset(tmp_path / "d").manifest == manifest


def test_wrong_input_to_the_reader(written, tmp_path):
    refuse("no dataset at", open_dataset, tmp_path / "nothing")
    refuse("no manifest.json", open_dataset, tmp_path)
    refuse("can't be reached|no dataset", open_dataset, "nosuch://bucket/x")
    dataset = open_dataset(written)
    refuse("'sofa'.*chair, table", read_targets, dataset, "train", ["sofa"])
    refuse("'sofa'.*chair, table", read_sources, dataset, ["sofa"])
    refuse("no target in split 'test'", read_targets, dataset, "test")
    refuse("no target in split 'val' of table", read_targets, dataset, "val", ["table"])
    refuse("allowed are train, val, test", read_targets, dataset, "valid")


@pytest.fixture
def copy(written, tmp_path) -> Path:
    root = tmp_path / "copy"
    for name, data in files_of(written).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def edit_manifest(root: Path, **changes) -> None:
    content = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps(content | changes))


def test_damaged_manifest(copy):
    edit_manifest(copy, schema_version=99)
    refuse("schema version 99.*reads 1", open_dataset, copy)
    edit_manifest(copy, schema_version=1, num_points="x", extra=1)
    refuse("extra", open_dataset, copy)
    for text in ("", "[]", "null", '{"schema_version": 1}', "\xff\xfe"):
        (copy / "manifest.json").write_bytes(text.encode("latin-1"))
        refuse("make the dataset again|make it again", open_dataset, copy)


def test_altered_manifest(copy):
    edit_manifest(copy, files=json.loads((copy / "manifest.json").read_text())["files"][1:])
    refuse("altered", open_dataset, copy)


def test_missing_and_truncated_files(copy):
    file = copy / "sources/part-00000.parquet"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    refuse("bytes, the manifest says", open_dataset, copy)
    file.unlink()
    refuse("part-00000.parquet is missing", open_dataset, copy)


def test_file_that_went_away_after_opening(copy):
    dataset = open_dataset(copy)
    (copy / "targets/train/part-00000.parquet").unlink()
    refuse("not on machine.*cluster", read_targets, dataset, "train")


def test_truncated_after_opening(copy):
    dataset = open_dataset(copy)
    file = copy / "targets/train/part-00000.parquet"
    file.write_bytes(file.read_bytes()[:-10])
    refuse("is damaged", read_targets, dataset, "train")


def test_every_flipped_byte_is_found(copy):
    """`verify` finds each one; plain reading finds it as well or returns what was written."""
    file = copy / "targets/val/part-00000.parquet"
    data = file.read_bytes()
    expected = [x.points.tobytes() for x in TARGETS["val"]]
    found = 0
    for position in range(4, len(data) - 8, 37):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        file.write_bytes(flipped)
        refuse("differs from its hash", open_dataset, copy, verify=True)
        try:
            assert [x.tobytes() for x in read_targets(open_dataset(copy), "val").points] == expected
        except InputError:
            found += 1
    assert found > 10


def test_file_uri_is_the_local_path(written):
    assert open_dataset(f"file://{written}") == open_dataset(written)


def test_other_file_systems(written, tmp_path):
    """Written in place, the manifest last; read back through the same file system."""
    (tmp_path / "store").mkdir()
    store = pafs.SubTreeFileSystem(str(tmp_path / "store"), pafs.LocalFileSystem())
    write("bucket/dataset", filesystem=store)
    assert files_of(tmp_path / "store" / "bucket" / "dataset") == files_of(written)
    dataset = open_dataset("bucket/dataset", verify=True, filesystem=store)
    for before, after in zip(SOURCES, read_sources(dataset), strict=True):
        assert_equal(before, after)
    refuse("not empty", write, "bucket/dataset", filesystem=store)


def test_unfinished_on_an_object_store(tmp_path):
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())

    def broken():
        yield from TARGETS["train"]
        raise RuntimeError("network down")

    with pytest.raises(RuntimeError, match="network down"):
        write_dataset("d", SOURCES, {"train": broken()}, how={}, filesystem=store)
    refuse("not one written|not written to its end|no manifest", open_dataset, "d", filesystem=store)


@given(st.sets(st.text(max_size=4), max_size=60), st.integers(0, 2**32), st.randoms())
def test_splits(ids, seed, random):
    splits = split_targets(ids, seed)
    assert sorted(x for part in splits.values() for x in part) == sorted(ids)
    if len(ids) >= 3:
        assert all(splits.values())
        assert abs(len(splits["val"]) - len(ids) / 10) <= 1
        assert len(splits["val"]) == len(splits["test"])
    shuffled = sorted(ids)
    random.shuffle(shuffled)
    assert split_targets(shuffled, seed) == splits


def test_splits_depend_on_the_seed():
    ids = [str(i) for i in range(50)]
    assert split_targets(ids, 0) != split_targets(ids, 1)
