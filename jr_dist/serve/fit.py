"""`jr-dist fit`: the nearest sources in the learned space, deformed, as GLBs in the input's frame."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jr_dist.data.part_mesh import to_glb
from jr_dist.errors import InputError
from jr_dist.locations import AnyPath, local_path
from jr_dist.log import say
from jr_dist.progress import progress
from jr_dist.serve.database import Database, open_database
from jr_dist.serve.inputs import PHOTO_SUFFIXES, Input, find_inputs, is_photo, observe
from jr_dist.serve.matching import Fitted, How, fit_observation
from jr_dist.serve.result import Candidate, FitResult, Fitting
from jr_dist.serve.result_folder import RESULT_NAME, check_folder, write_folder

PICTURE_NAME = "picture.png"


@dataclass(frozen=True)
class FitSettings:
    """What holds for every input of one call."""

    how: How
    num_points: int
    pictures: bool
    seed: int


def fit(
    run: str | AnyPath,
    inputs: Sequence[str | Path],
    *,
    out: str | AnyPath,
    top_k: int = 5,
    up: str = "y",
    index: str | Path | None = None,
    category: str | None = None,
    num_points: int = 2048,
    refine: bool = False,
    partial: bool = False,
    mirror: bool = False,
    pictures: bool = False,
    seed: int = 0,
    data: str | AnyPath | None = None,
) -> list[FitResult]:
    """Fit meshes, clouds, photos and folders of them; write OUT/STEM/ (`result.json`, `rank-1.glb` ...) of each.

    `top_k` sources nearest in the learned space (of `category` alone where given) are deformed and sorted by chamfer
    after deformation. `refine` improves each by IDO from several starts and keeps the best. `partial` says that the
    inputs show a part of their shapes: sources are then sorted by the distance from the input to them alone, and
    refined by it, pulled towards the network's parameters; `mirror` adds the input's mirror image in the vertical plane
    through the middle of the deformed source. `up` and `index` say how the inputs stand. `data` names the dataset where
    it has moved since training. A photo needs a run trained on pictures; its candidates, deformed by the network alone,
    stay in the order of retrieval, and `mask.png` and `overlay.png` are written beside them. OUT/STEM is written as a
    whole; files of an earlier fit of the same input are replaced, others stay. What makes a result doubtful is in its
    `warnings` and on stderr. A bad input among several is reported and skipped.

    Raises `InputError` for a wrong setting, where OUT/STEM is of another input, and where no input remains.
    """
    settings = FitSettings(How(top_k, refine, partial, mirror), num_points, pictures, seed)
    out = local_path(out, "--out")
    _check_settings(settings, out)
    found = find_inputs(inputs, up=up, index=index, out=out)
    check_photos(found, settings.how)
    folders = result_folders(found, out)
    database = open_database(run, data=data, category=category, num_points=num_points, top_k=top_k, refine=refine)
    results, refused = [], []
    with progress("fit", len(found), unit="input") as bar:
        for source, folder in zip(found, folders):
            try:
                results.append(_fit_one(database, source, folder, settings))
            except InputError as error:
                refused.append(str(error))
                if len(found) > 1:
                    say(f"skipped: {error}", level="warning", stream=sys.stderr, fields={"event": "skipped"})
            bar.advance(skipped=len(refused))
    if not results:
        raise InputError(_nothing_left(refused))
    return results


def result_folders(found: Sequence[Input], out: Path) -> list[Path]:
    """The folder of each input's result. Raises `InputError` where one exists and is not that of the same input."""
    folders = [out / name for name in result_names([source.path for source in found])]
    for source, folder in zip(found, folders):
        check_folder(folder, source.path)
    return folders


def result_names(paths: Sequence[Path]) -> list[str]:
    """The folder of each input's result: its stem, a number appended where the stem is taken (STEM-2, ...).

    Capitals make no difference, for file systems that don't tell them apart.
    """
    taken: set[str] = set()
    names = []
    for path in paths:
        stem = path.stem.strip(". ") or "input"
        name, count = stem, 1
        while name.lower() in taken:
            count += 1
            name = f"{stem}-{count}"
        taken.add(name.lower())
        names.append(name)
    return names


def _check_settings(settings: FitSettings, out: Path) -> None:
    if settings.num_points < 32:
        raise InputError(f"num-points is {settings.num_points}; 32 or more are allowed; raise it")
    if settings.seed < 0:
        raise InputError(f"seed is {settings.seed}; 0 or more is allowed; choose another")
    if out.exists() and not out.is_dir():
        raise InputError(f"output {out} is a file; a directory is allowed; name another")


def check_photos(found: Sequence[Input], how: How) -> None:
    """Raise `InputError` where a photo is to be fitted in a way that needs points."""
    photo = next((source.path for source in found if is_photo(source.path)), None)
    asked = [name for name in ("refine", "partial", "mirror") if getattr(how, name)]
    if photo is not None and asked:
        raise InputError(
            f"{photo} is a photo, and {' and '.join(asked)} {'is' if len(asked) == 1 else 'are'} on; "
            "a photo shows no points, so these are allowed with scans alone; leave them out"
        )


def _nothing_left(refused: list[str]) -> str:
    if len(refused) == 1:
        return refused[0]
    return f"none of the {len(refused)} inputs could be fitted; the first: {refused[0]}"


def _fit_one(database: Database, source: Input, folder: Path, settings: FitSettings) -> FitResult:
    _check_kind(database, source.path)
    if is_photo(source.path):
        return _fit_photo(database, source, folder, settings)
    observation = observe(source, num_points=settings.num_points, seed=settings.seed)
    fitted = fit_observation(database, observation, settings.how)
    result = FitResult(
        input=str(source.path),
        path=folder,
        kind=observation.kind,
        up=source.up,
        transform=observation.transform,
        num_file_points=observation.num_file_points,
        num_points=len(observation.points),
        num_source_points=database.num_points,
        run=database.run,
        seed=settings.seed,
        fitting=_fitting(database, settings.how),
        candidates=_numbered(fitted),
        warnings=(*observation.warnings, *_warnings(database, settings.how, fitted[0].candidate)),
    )
    files = {
        candidate.glb: to_glb(one.deformed_mesh(), observation.transform)
        for candidate, one in zip(result.candidates, fitted)
    }
    if settings.pictures:
        files[PICTURE_NAME] = _picture(observation.points, fitted[0], partial=settings.how.partial)
    return _written(result, files)


def _check_kind(database: Database, path: Path) -> None:
    if is_photo(path) and database.picture_size is None:
        raise InputError(
            f"{path} is a photo, but run {database.run} was trained on points; allowed are meshes and clouds; "
            "name a run trained with --data.images"
        )
    if not is_photo(path) and database.picture_size is not None:
        raise InputError(
            f"{path} is no photo, but run {database.run} was trained on pictures; allowed are "
            f"{', '.join(PHOTO_SUFFIXES)}; name a run trained with --data.images none"
        )


def _fit_photo(database: Database, source: Input, folder: Path, settings: FitSettings) -> FitResult:
    from jr_dist.serve import photo_fit  # ray casting is loaded only where it is needed

    found = photo_fit.fit_photo(database, source.path, settings.how.top_k)
    result = FitResult(
        input=str(source.path),
        path=folder,
        kind="photo",
        up=source.up,
        transform=np.eye(4),
        num_file_points=None,
        num_points=None,
        num_source_points=None,
        run=database.run,
        seed=settings.seed,
        fitting=Fitting(False, False, False, 0, 0.0, ranked_by="retrieval_distance"),
        candidates=_numbered(found.fitted),
        warnings=found.warnings,
        photo=found.report,
    )
    files = {candidate.glb: to_glb(one.deformed_mesh()) for candidate, one in zip(result.candidates, found.fitted)}
    files |= photo_fit.picture_files(found, sheet_name=PICTURE_NAME if settings.pictures else None)
    return _written(result, files)


def _numbered(fitted: Sequence[Fitted]) -> tuple[Candidate, ...]:
    return tuple(replace(one.candidate, glb=f"rank-{rank}.glb") for rank, one in enumerate(fitted, start=1))


def _fitting(database: Database, how: How) -> Fitting:
    refinement = how.refinement(database.ido)
    return Fitting(
        partial=how.partial,
        refined=how.refine,
        mirror=how.mirror,
        iterations=0 if refinement is None else refinement.iterations,
        prior_weight=0.0 if refinement is None else refinement.prior_weight,
        ranked_by=how.ranked_by,
    )


def _warnings(database: Database, how: How, best: Candidate) -> Iterable[str]:
    if how.partial and not database.trained_on_parts:
        yield (
            "the run was trained on whole shapes: one trained with --data.observed partial retrieves better and knows "
            "more of what is hidden"
        )
    name, before, after = best.distances(partial=how.partial)
    if after > before and not how.refine:
        yield f"rank 1 is worse than undeformed ({name} x100 {before:.3f} -> {after:.3f}); add --refine"


def _picture(points: np.ndarray, best: Fitted, *, partial: bool) -> bytes:
    from jr_dist.serve.pictures import fit_picture  # ray casting is loaded only where a picture is asked for

    buffer = io.BytesIO()
    fit_picture(points, best, partial=partial).save(buffer, format="PNG")
    return buffer.getvalue()


def _written(result: FitResult, files: dict[str, bytes]) -> FitResult:
    result = replace(result, files=(RESULT_NAME, *sorted(files)))
    write_folder(result.path, Path(result.input), {**files, RESULT_NAME: result.to_json().encode()})
    for warning in result.warnings:
        fields = {"event": "doubtful", "input": result.input}
        say(f"{result.path.name}: warning: {warning}", level="warning", stream=sys.stderr, fields=fields)
    return result
