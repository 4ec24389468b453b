"""index.csv: what it may leave out, and what it is refused for."""

from __future__ import annotations

import pytest

from jr_dist.data.mesh_files import read_index
from jr_dist.errors import InputError


def test_an_index_may_lack_columns(tmp_path):
    (tmp_path / "index.csv").write_text(
        "\ufefffile,Category,up_axis,height_cm\na.obj,chair,Z,\nb/c.glb,table,,75.5\n\n"
    )
    rows = read_index(tmp_path / "index.csv")
    assert (rows["a.obj"].up_axis, rows["a.obj"].size_cm) == ("z", (None, None, None))
    assert (rows["b/c.glb"].category, rows["b/c.glb"].size_cm) == ("table", (None, None, 75.5))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("name,category\nx,chair\n", "line 1: the heading is 'name,category'; allowed are columns separated by commas"),
        ("file;category\nx;chair\n", "line 1: the heading is 'file;category'; allowed are columns separated by commas"),
        ("", "line 1: the heading is ''"),
        ("file,height_cm\na.obj,1\n\nlamp.glb,12,5\n", "line 4: 'lamp.glb,12,5' has 3 cells; allowed are 2"),
        ('file,name\na.obj,"a\nb"\nb/c.obj,\n\n./b/c.obj,x\n', "line 6: file is 'b/c.obj', as in line 4"),
        ("file,up_axis\na.obj,up\n", "line 2: up_axis is 'up'"),
        ("file,height_cm\na.obj,tall\n", "line 2: height_cm is 'tall'"),
        ("file,height_cm\na.obj,-4\n", "height_cm is '-4'"),
        ("file,rotation\na.obj,1 0 0\n", "rotation is '1 0 0'"),
        ("file,rotation\na.obj,2 0 0 0 2 0 0 0 2\n", "allowed are the 9 numbers"),
        ("file,parts\na.obj,pieces\n", "parts is 'pieces'"),
    ],
)
def test_a_wrong_index_names_line_column_and_value(tmp_path, content, expected):
    (tmp_path / "index.csv").write_text(content)
    with pytest.raises(InputError, match="index") as caught:
        read_index(tmp_path / "index.csv")
    assert expected in str(caught.value)


def test_empty_cells_and_lines_without_a_file_may_repeat(tmp_path):
    (tmp_path / "index.csv").write_text("file,category\na.obj,chair,,\n,x\n,y\nb.obj\n")
    rows = read_index(tmp_path / "index.csv")
    assert {name: row.category for name, row in rows.items()} == {"a.obj": "chair", "b.obj": ""}


def test_an_index_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "index.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="cannot be read"):
        read_index(tmp_path / "index.csv")
