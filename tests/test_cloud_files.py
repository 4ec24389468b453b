"""Clouds come back number for number from every format, and a bad file is refused in a line that names it."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from jr_dist.errors import InputError
from jr_dist.serve.cloud_files import is_cloud, read_cloud, why_no_text_cloud

POINTS = np.random.default_rng(0).normal(size=(60, 3)) * [1.0, 20.0, 300.0]


def ply_bytes(points: np.ndarray, layout: str, *, faces: int = 0, before: str = "") -> bytes:
    """A PLY whose vertices carry a colour before and a label after their coordinates."""
    header = f"ply\nformat {layout} 1.0\ncomment made by hand\n{before}element vertex {len(points)}\n"
    header += "property uchar red\nproperty float x\nproperty double y\nproperty float z\nproperty short label\n"
    header += f"element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    if layout == "ascii":
        return (header + "".join(f"7 {x!r} {y!r} {z!r} -1\n" for x, y, z in points.tolist())).encode()
    order = "<" if layout == "binary_little_endian" else ">"
    kinds = [("red", "u1"), ("x", "f4"), ("y", "f8"), ("z", "f4"), ("label", "i2")]
    data = np.zeros(len(points), dtype=[(name, order + kind) for name, kind in kinds])
    for axis, name in enumerate("xyz"):
        data[name] = points[:, axis]
    return header.encode() + data.tobytes()


@pytest.mark.parametrize("layout", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_of_every_layout(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "scan.ply"
    path.write_bytes(ply_bytes(POINTS.astype(np.float32).astype(float), layout))
    assert is_cloud(path)
    np.testing.assert_array_equal(read_cloud(path), POINTS.astype(np.float32))


def test_ply_with_elements_before_the_vertices(tmp_path: Path) -> None:
    before = "element camera 2\nproperty float view\n"
    head, body = ply_bytes(POINTS, "binary_big_endian", before=before).split(b"end_header\n", 1)
    path = tmp_path / "scan.ply"
    path.write_bytes(head + b"end_header\n" + np.zeros(2, ">f4").tobytes() + body)
    np.testing.assert_allclose(read_cloud(path), POINTS, rtol=1e-6)


@pytest.mark.parametrize("layout", ["ascii", "binary_little_endian"])
def test_ply_as_another_program_writes_it(tmp_path: Path, layout: str) -> None:
    encoding = layout.removesuffix("_little_endian")
    path = tmp_path / "scan.ply"
    content = trimesh.PointCloud(POINTS).export(file_type="ply", encoding=encoding)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    np.testing.assert_allclose(read_cloud(path), POINTS, rtol=1e-6, atol=1e-6)


def test_ply_with_faces_is_a_mesh(tmp_path: Path) -> None:
    path = tmp_path / "box.ply"
    trimesh.creation.box().export(path)
    assert not is_cloud(path)


def lines_of(points: np.ndarray, separator: str, tail: str = "") -> str:
    return "".join(separator.join(map(repr, row)) + tail + "\n" for row in points.tolist())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.xyz", lines_of(POINTS, " ")),
        ("colour.xyz", lines_of(POINTS, " ", " 12 200 30 seat")),
        ("tabs.txt", lines_of(POINTS, "\t")),
        ("padded.asc", "\n\n" + "".join(f"  {x!r}   {y!r}\t{z!r}  \n" for x, y, z in POINTS.tolist())),
        ("heading.csv", "x,y,z,label\n" + lines_of(POINTS, ",", ",seat")),
        ("capitals.csv", '"X"; "Y"; "Z"\n' + lines_of(POINTS, "; ")),
        ("unnamed.csv", "first,second,third\n" + lines_of(POINTS, ",")),
        ("cloudcompare.txt", "//X Y Z R\n60\n" + lines_of(POINTS, " ", " 9")),
        ("comments.xyz", "# a scan\n# 1 2 3\n" + lines_of(POINTS, " ") + "# the end\n"),
        ("counted.pts", "60\n" + lines_of(POINTS, " ", " -100 1 2 3")),
        ("marked.csv", "\ufeff" + lines_of(POINTS, ",")),
        ("dos.csv", ("x,y,z\n" + lines_of(POINTS, ",")).replace("\n", "\r\n")),
        ("trailing.csv", lines_of(POINTS, ",", ",")),
    ],
)
def test_text_clouds(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8"))
    assert is_cloud(path) and why_no_text_cloud(path) is None
    np.testing.assert_array_equal(read_cloud(path), POINTS)


@pytest.mark.parametrize("heading", ["id,x,y,z\n", "id;X;Y;Z\n", "# id x y z\n"])
def test_text_columns_are_found_by_name(tmp_path: Path, heading: str) -> None:
    separator = next((mark for mark in ",;" if mark in heading), " ")
    path = tmp_path / "named.csv"
    path.write_text(heading + lines_of(np.column_stack([np.arange(60), POINTS]), separator))
    np.testing.assert_array_equal(read_cloud(path), POINTS)


@settings(max_examples=25, deadline=None)
@given(
    dtype=st.sampled_from(["<f2", "<f4", ">f4", "<f8", ">f8", "<i4"]),
    columns=st.integers(3, 6),
    fortran=st.booleans(),
    packed=st.booleans(),
)
def test_arrays_of_every_kind(tmp_path_factory, dtype, columns, fortran, packed) -> None:
    array = np.random.default_rng(columns).normal(scale=50, size=(40, columns)).astype(dtype)
    array = np.asfortranarray(array) if fortran else array
    path = tmp_path_factory.mktemp("arrays") / ("cloud.npz" if packed else "cloud.npy")
    if packed:
        np.savez_compressed(path, array)
    else:
        np.save(path, array)
    np.testing.assert_array_equal(read_cloud(path), array[:, :3].astype(float))


def test_npz_with_several_arrays_needs_one_called_points(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", points=POINTS, normals=-POINTS)
    np.testing.assert_array_equal(read_cloud(tmp_path / "good.npz"), POINTS)
    np.savez(tmp_path / "bad.npz", first=POINTS, second=POINTS)
    with pytest.raises(InputError, match=r"bad\.npz holds 2 arrays \(first, second\)"):
        read_cloud(tmp_path / "bad.npz")


def saved(array: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


class Trap:
    """An object whose unpickling would leave a trace."""

    def __reduce__(self):
        return (Path.touch, (Path("trap-was-sprung"),))


BAD = {
    "empty.xyz": (b"", "no line of three numbers"),
    "empty.ply": (b"", "does not begin with 'ply'"),
    "empty.npy": (b"", "no plain array"),
    "empty.npz": (b"", "no plain array"),
    "words.txt": (b"Dear reader,\nthis is no cloud.\n" * 80, "no line of three numbers"),
    "two-columns.xyz": (b"1 2\n3 4\n" * 40, "no line of three numbers"),
    "three.xyz": (b"0 0 0\n1 0 0\n0 1 0\n", "holds 3 points; a cloud needs at least 32"),
    "three.npy": (saved(POINTS[:3]), "holds 3 points"),
    "broken-line.csv": (
        (lines_of(POINTS, ",") + "1,two,3\n").encode(),
        "line 61 has 'two', which is no number, in column 2",
    ),
    "short-line.csv": ((lines_of(POINTS, ",") + "1,2\n").encode(), "line 61 has 2 columns, and 3 or more are expected"),
    "nan.xyz": ((lines_of(POINTS, " ") + "nan 0 0\n").encode(), "1 of 61 points with NaN"),
    "infinite.npy": (saved(np.r_[POINTS, [[0, np.inf, 0]]]), "1 of 61 points with NaN or infinite"),
    "one-place.npy": (saved(np.full((50, 3), 7.0)), "50 points in one place"),
    "origin.npy": (saved(np.zeros((50, 3))), "50 points in one place"),
    "flat-array.npy": (saved(POINTS.ravel()), r"shape \(180,\)"),
    "transposed.npy": (saved(np.zeros((60, 2))), r"shape \(60, 2\)"),
    "nothing.npy": (saved(np.zeros((0, 3))), "holds 0 points|no plain array"),
    "complex.npy": (saved(POINTS.astype(complex)), "complex128"),
    "words.npy": (saved(np.full((40, 3), "seat")), "array of <U4"),
    "objects.npy": (saved(np.array([[Trap()] * 3] * 40), allow_pickle=True), "no plain array"),
    "pickle.npy": (pickle.dumps(Trap()), "no plain array"),
    "cut.npy": (saved(POINTS)[:-100], "no plain array"),
    "huge.npy": (saved(POINTS).replace(b"(60, 3)", b"(9999999999, 3)"), "no plain array"),
    "zip.npy": (b"PK\x03\x04" + bytes(40), "no plain array"),
    "cut.npz": (b"PK\x03\x04" + bytes(40), "no plain array"),
    "cut-header.ply": (ply_bytes(POINTS, "ascii")[:60], "ends inside its header"),
    "cut-ascii.ply": (ply_bytes(POINTS, "ascii")[:-200], "cut short|not numbers"),
    "cut-binary.ply": (ply_bytes(POINTS, "binary_little_endian")[:-1], "cut short: 59 of 60"),
    "lying.ply": (
        ply_bytes(POINTS, "binary_little_endian").replace(b"vertex 60", b"vertex 99999999999999"),
        "cut short: 60 of",
    ),
    "negative.ply": (ply_bytes(POINTS, "ascii").replace(b"vertex 60", b"vertex -60"), "header line"),
    "type.ply": (ply_bytes(POINTS, "ascii").replace(b"property float x", b"property quad x"), "header line"),
    "no-z.ply": (ply_bytes(POINTS, "ascii").replace(b"property float z", b"property float w"), "x, y and z"),
    "twice.ply": (
        ply_bytes(POINTS, "ascii").replace(b"property short label", b"property short x"),
        "x, y and z",
    ),
    "format.ply": (ply_bytes(POINTS, "ascii").replace(b"format ascii", b"format packed"), "format packed"),
    "mesh.ply": (b"this is no ply\n" * 20, "does not begin"),
    "words.ply": (ply_bytes(POINTS, "ascii").replace(b"\n7 ", b"\n7 oops ", 1), "not numbers"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_clouds_are_refused_in_one_line(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    content, expected = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=expected) as caught:
        read_cloud(path)
    message = str(caught.value)
    assert name in message and "\n" not in message and message.count(";") >= 2
    assert not Path("trap-was-sprung").exists()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.xyz cannot be read"):
        read_cloud(tmp_path / "gone.xyz")


def test_notes_are_told_from_clouds(tmp_path: Path) -> None:
    (tmp_path / "licence.txt").write_text("Free to use.\nVersion 1.3\n")
    assert "no line of three numbers" in str(why_no_text_cloud(tmp_path / "licence.txt"))
    assert "cannot be read (No such file" in str(why_no_text_cloud(tmp_path / "gone.txt"))


@pytest.mark.parametrize("bad", ["1,2", "1,two,3,4", "1,2,3_0,4", "1,,3", "1,2#,3"])
@pytest.mark.parametrize("before", [0, 7, 59])
def test_a_bad_line_is_told_by_its_number(tmp_path: Path, bad: str, before: int) -> None:
    lines = ["# a scan", "x,y,z", "", *lines_of(POINTS, ",").splitlines()]
    lines[4:4] = ["", "# 1,2", ""]  # counted as an editor counts them
    at = lines.index(",".join(map(repr, POINTS[before].tolist()))) + 1
    lines.insert(at, bad)
    (tmp_path / "scan.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=rf"scan\.csv line {at + 1} has ") as caught:
        read_cloud(tmp_path / "scan.csv")
    assert lines[int(str(caught.value).partition(" line ")[2].split()[0]) - 1] == bad


def test_columns_found_are_told_beside_those_expected(tmp_path: Path) -> None:
    text = "id;x;y;z\n" + lines_of(np.column_stack([np.arange(60), POINTS]), ";") + "7;1;2\n"
    (tmp_path / "scan.csv").write_text(text)
    expected = r"line 62 has 3 columns, and 4 or more are expected \(x, y and z are columns 2, 3, 4\)"
    with pytest.raises(InputError, match=expected):
        read_cloud(tmp_path / "scan.csv")
