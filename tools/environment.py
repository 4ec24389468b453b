"""Make the Python environment that the Makefile uses; only the standard library and pip are needed.

    python3 tools/environment.py           # the folder of JR_VENV, or .venv: made, mended or found ready
    python3 tools/environment.py --shared  # print the folder that clones with the same pins can share

The key of an environment is a hash of its requirements, their pins and the Python version. It is written last, so
an interrupted installation is seen and made again. An environment outside the clone holds the requirements alone,
since an installed package would be one clone's; there the package comes by PYTHONPATH, as the Makefile sets it.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("dev", "images", "gl", "sweep", "cluster")
# Editable installs build with it, without fetching anything.
BUILD_REQUIREMENTS = ("setuptools>=77",)
COMPLETE, BUILDING = ".jr-dist-complete", ".jr-dist-building"


def requirements() -> list[str]:
    """What pyproject.toml asks for, all extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (project["optional-dependencies"][extra] for extra in EXTRAS)
    return [*project["dependencies"], *(line for extra in extras for line in extra), *BUILD_REQUIREMENTS]


def key() -> str:
    """Names an environment: equal for equal requirements, pins, Python version and machine."""
    pins = (ROOT / "constraints.txt").read_text()
    kind = (platform.python_implementation(), *sys.version_info[:2], platform.system(), platform.machine())
    return hashlib.sha256(repr((requirements(), pins, kind)).encode()).hexdigest()[:16]


def shared() -> Path:
    """Where clones of the same pins keep their environment."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "jr-dist" / f"env-{key()}"


def prepare(folder: Path) -> None:
    """Leave a complete environment in `folder`; returns at once where there is one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent):
        complete = folder / COMPLETE
        if complete.is_file() and complete.read_text() == key():
            return
        # Someone else's environment is added to; only a half-built one of ours is thrown away.
        if (folder / BUILDING).exists():
            shutil.rmtree(folder)
        complete.unlink(missing_ok=True)
        _install(folder)
        complete.write_text(key())


def _install(folder: Path) -> None:
    print(f"preparing the Python environment {folder}", flush=True)
    folder.mkdir(exist_ok=True)
    (folder / BUILDING).touch()
    if not (folder / "pyvenv.cfg").exists():
        # Some systems ship Python without ensurepip; the pip outside then installs into the environment.
        venv.create(folder, with_pip=importlib.util.find_spec("ensurepip") is not None)
    python = folder / "bin" / "python"
    own_pip = subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    pip = [python, "-m", "pip"] if own_pip else [sys.executable, "-m", "pip", "--python", python]
    install = [*pip, "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--constraint", ROOT / "constraints.txt", *requirements()], check=True)
    if ROOT in folder.parents:
        subprocess.run([*install, "--no-deps", "--no-build-isolation", "--editable", ROOT], check=True)
    (folder / BUILDING).unlink()


@contextlib.contextmanager
def _locked(folder: Path):
    """One builder at a time: two clones may start together. The lock goes with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", action="store_true", help="only print the folder that clones share")
    if parser.parse_args().shared:
        print(shared())
        return 0
    try:
        prepare(Path(os.environ.get("JR_VENV") or ROOT / ".venv").absolute())
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(map(str, error.cmd))} failed with status {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
