"""One model of an ingest: read, parted, turned into a source and a target, or the reason why not. No Ray
here.
"""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from jr_dist.data.build import build_source, build_target
from jr_dist.data.file_parts import find_parts
from jr_dist.data.ingest_tasks import IngestTask
from jr_dist.data.mesh_files import load_mesh_file
from jr_dist.data.part_mesh import PartMesh, concatenated
from jr_dist.data.partnet import load_partnet
from jr_dist.data.records import SourceModel, TargetShape
from jr_dist.data.render import part_colours, render_part_mesh
from jr_dist.errors import InputError
from jr_dist.geometry.frames import canonical_transform, invert_transform

PICTURE_SIZE = 160


@dataclass(frozen=True)
class IngestedFile:
    """What came of one model: source and target, or the problem."""

    id: str
    source: SourceModel | None = None
    target: TargetShape | None = None
    picture: bytes | None = None  # PNG, its parts in colours
    problem: str | None = None


def ingest_file(task: IngestTask, *, num_points: int, picture: bool = False) -> IngestedFile:
    """Read a model and make of it a source and a target, sampled independently of one another.

    Their `transform` leads to the file's own frame and units. Raises `InputError` naming the file and what is
    wrong with it.
    """
    rotation = None if task.rotation is None else np.array(task.rotation)
    if task.partnet:
        loaded = load_partnet(task.path, up=task.up)
    else:
        loaded = load_mesh_file(task.path, up=task.up, rotation=rotation, size_cm=task.size_cm)
    mesh, how = find_parts(loaded, "nodes" if task.partnet else task.parts)
    provenance = {"made_by": "ingest", "file": task.file, **task.credits, **loaded.provenance, **how}
    about: dict[str, Any] = {
        "id": task.id,
        "category": task.category,
        "num_points": num_points,
        "seed": 0,
        "provenance": provenance,
    }
    source, target = build_source(mesh, **about), build_target(mesh, **about)
    shown = part_picture(mesh) if picture else None
    return IngestedFile(
        task.id,
        replace(source, transform=loaded.to_file @ source.transform),
        replace(target, transform=loaded.to_file @ target.transform),
        shown,
    )


def try_ingest_file(
    task: IngestTask, *, num_points: int, picture: bool = False, seconds: float = 300.0
) -> IngestedFile:
    """`ingest_file`, with whatever goes wrong as the `problem` of its answer; stopped after `seconds`.

    Errors that are ours rather than the file's are told as such: one odd file must not stop the others.
    """
    try:
        with _time_limit(seconds):
            return ingest_file(task, num_points=num_points, picture=picture)
    except InputError as error:
        problem = str(error)
    except MemoryError:
        problem = f"{task.path} asks for more memory than there is; simplify the mesh"
    except _TooSlow:
        problem = f"{task.path} took more than {seconds:g} s; simplify the mesh or raise --file-seconds"
    except Exception as error:
        problem = f"{task.path} could not be processed ({type(error).__name__}: {str(error)[:200]}); please report it"
    return IngestedFile(task.id, problem=" ".join(problem.split()))


def part_picture(mesh: PartMesh, *, size: int = PICTURE_SIZE) -> bytes:
    """PNG of the upright mesh, a colour a part, transparent where nothing is."""
    vertices, faces, part = concatenated(mesh)
    inverse = invert_transform(canonical_transform(vertices))
    canonical = vertices @ inverse[:3, :3].T + inverse[:3, 3]
    image = render_part_mesh(canonical, faces, part_colours(mesh.num_parts)[part], size=size)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


class _TooSlow(BaseException):
    # Not an Exception, so that no library on the way takes it for one of its own errors.
    pass


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `_TooSlow` when the block takes longer. Only the main thread can be interrupted; elsewhere
    there is no limit.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
