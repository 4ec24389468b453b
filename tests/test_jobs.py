"""Jobs: what travels with one, by Ray's own code, and that the commands they open with are commands."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from jr_dist.cli_arguments import Parser
from jr_dist.cluster_package import package
from jr_dist.verbs.registry import VERBS

ROOT = Path(__file__).parent.parent
JOBS = sorted((ROOT / "jobs").glob("*.py"))
HIDDEN = (".git", ".venv", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis", "jr_dist.egg-info")


def package_of_ray(folder: Path, to: Path) -> zipfile.ZipFile:
    """What `ray job submit --working-dir` makes of a folder."""
    from ray._private.runtime_env.packaging import create_package

    create_package(str(folder), to, include_gitignore=True)
    return zipfile.ZipFile(to)


@pytest.fixture
def clone(tmp_path) -> Path:
    """This project with a dataset, a run, an environment and caches in it."""
    path = tmp_path / "clone"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in listed:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, path / name)
    for folder in ("data/furniture/sources", "runs/chairs", "jr_dist/data/__pycache__", "build", *HIDDEN):
        (path / folder).mkdir(parents=True, exist_ok=True)
        with open(path / folder / "large.bin", "wb") as file:
            file.truncate(300 * 2**20)  # a hole: no disk is needed
    return path


def test_a_clone_with_datasets_makes_a_small_package(clone, tmp_path):
    found = package(clone)
    with package_of_ray(clone, tmp_path / "package.zip") as archive:
        names = archive.namelist()
    assert found.num_bytes == (tmp_path / "package.zip").stat().st_size, "to the byte"
    assert found.num_files == len(names)
    assert found.num_bytes < 10e6 < found.limit == 100 * 2**20
    assert not [name for name in names if "large.bin" in name]
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "jr_dist").rglob("*.py")}
    jobs = {path.relative_to(ROOT).as_posix() for path in JOBS}
    assert modules | jobs <= set(names), "jr_dist/data is no dataset"


@pytest.mark.parametrize("rules", ["", "*.bin\n", "/large\n", "deep/\n!deep/kept.txt\n", "a*/\n"])
def test_a_package_is_measured_as_ray_makes_it_whatever_the_rules(tmp_path, rules):
    folder = tmp_path / "folder"
    for name in ("one.py", "large/x.bin", "deep/kept.txt", "deep/er/x.bin", "a b/ü.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name * 10)
    (folder / "empty").mkdir()
    (folder / "deep" / ".rayignore").write_text("er\n")
    (folder / ".gitignore").write_text("one.py\n")
    (folder / ".rayignore").write_text(rules)
    found = package(folder)
    with package_of_ray(folder, tmp_path / "package.zip") as archive:
        assert found.num_files == len(archive.namelist())
    assert found.num_bytes == (tmp_path / "package.zip").stat().st_size


def commands_of(path: Path) -> list[list[str]]:
    """The words behind `python jobs/NAME.py` of each command that a job opens with."""
    text = (ast.get_docstring(ast.parse(path.read_text())) or "").replace("\\\n", " ")
    return [
        shlex.split(line.split(f"python jobs/{path.name}")[1]) for line in text.splitlines() if "python jobs" in line
    ]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_the_commands_that_a_job_opens_with_are_understood(path):
    for words in commands_of(path):
        parser = Parser(prog=path.stem)
        VERBS[path.stem].add_arguments(parser, words)
        parser.add_argument("--dry-run", action="store_true")
        parser.parse(words)
        assert all((ROOT / word).is_file() for word in words if word.startswith("configs/"))


def test_a_job_s_dry_run_says_how_large_its_package_is(tmp_path):
    words = [sys.executable, "jobs/synthesize.py", str(tmp_path / "out"), "--dry-run"]
    own = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=own, capture_output=True, text=True, check=True)
    assert re.search(
        r"^package  +[0-9.]+ MB in [0-9]+ files, of 105 MB that `ray job submit", done.stdout, re.MULTILINE
    )
    assert not list(tmp_path.iterdir())


def test_storage_has_one_name_in_jobs_and_clusters():
    named = [path for path in JOBS if "$JR_STORAGE" in path.read_text()]
    assert named
    [option] = [x for x in yaml.safe_load((ROOT / "cluster.yaml").read_text())["docker"]["run_options"] if "JR_" in x]
    assert option.startswith("--env JR_STORAGE=")
