"""The directory of a run: whichever moment a writer dies at, the last checkpoint is whole; one start at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jr_dist.errors import InputError
from jr_dist.train.run_directory import (
    BEST,
    LAST,
    METRICS,
    checkpoint_path,
    claim,
    has_checkpoint,
    keep_metrics_until,
    new_checkpoint,
    newest_start,
)

# What a writer is killed in front of, and the checkpoint that `last` and `best` then name.
MOMENTS = {
    "Path.write_text": ("two", "two"),  # writing
    "atomic.sync": ("two", "two"),  # written
    "os.rename": ("two", "two"),  # on the disk for good, not in place yet
    "Path.symlink_to": ("two", "two"),  # in place, no name points to it
    "os.replace": ("two", "two"),  # the new name stands beside the old
    "second os.replace": ("three", "two"),  # one of the two names is moved
    "run_directory.sync": ("three", "three"),
    "run_directory._sweep": ("three", "three"),  # what was there before is still there
}


def save(run: Path, step: int, start: int, text: str, names: tuple[str, ...] = (LAST, BEST)) -> None:
    with new_checkpoint(run, step, start, names) as aside:
        (aside / "manifest.json").write_text(text)


def saved(run: Path, which: str = LAST) -> str:
    assert has_checkpoint(run, which)
    return (checkpoint_path(run, which) / "manifest.json").read_text()


def entries(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def die_while_saving(run: Path, moment: str) -> None:
    """A process of its own saves "three" as start 1 and is gone, without a word, in front of `moment`."""
    order, _, function = moment.rpartition(" ")
    script = f"""
        import os
        from pathlib import Path
        from jr_dist import atomic
        from jr_dist.train import run_directory
        place, name = {function.rpartition(".")[0]}, {function.rpartition(".")[2]!r}
        function, calls = getattr(place, name), []
        def deadly(*arguments, **options):
            calls.append(1)
            # A sweep comes before the writing as well, and a write on the way to it.
            if Path({str(run / "writing")!r}).exists() and len(calls) >= first:
                os._exit(9)
            return function(*arguments, **options)
        first = {2 if order else 1}
        with run_directory.new_checkpoint(Path({str(run)!r}), 9, 1, ["last", "best"]) as aside:
            (aside / "block").write_bytes(b"half")
            Path({str(run / "writing")!r}).touch()
            setattr(place, name, deadly)
            (aside / "manifest.json").write_text("three")
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False).returncode == 9


@pytest.mark.parametrize(("moment", "left"), MOMENTS.items(), ids=MOMENTS)
def test_a_writer_killed_at_any_moment_leaves_whole_checkpoints_and_the_next_cleans_up(tmp_path, moment, left):
    assert claim(tmp_path, "started") == 1
    save(tmp_path, 3, 1, "one")
    save(tmp_path, 6, 1, "two")
    die_while_saving(tmp_path, moment)
    assert (saved(tmp_path, LAST), saved(tmp_path, BEST)) == left
    assert len(entries(tmp_path)) > 3, "the killed writer left something"
    start = claim(tmp_path, "started again")
    save(tmp_path, 9, start, "four")
    assert saved(tmp_path, LAST) == saved(tmp_path, BEST) == "four"
    assert entries(tmp_path) == [BEST, LAST, f"step-00000009-start-{start}"]


def test_what_a_killed_writer_left_is_gone_before_the_next_one_writes(tmp_path):
    claim(tmp_path, "started")
    save(tmp_path, 3, 1, "one")
    die_while_saving(tmp_path, "Path.write_text")
    with new_checkpoint(tmp_path, 6, 1, [LAST]) as aside:
        assert entries(tmp_path) == sorted([aside.name, BEST, LAST, "step-00000003-start-1"])
        (aside / "manifest.json").write_text("two")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_checkpoint_that_fails_changes_nothing(tmp_path, error):
    claim(tmp_path, "started")
    save(tmp_path, 3, 1, "one")
    before = entries(tmp_path)

    def failing() -> None:
        with new_checkpoint(tmp_path, 6, 1, [LAST]) as aside:
            (aside / "manifest.json").write_text("two")
            raise error

    with pytest.raises(type(error)):
        failing()
    assert entries(tmp_path) == before and saved(tmp_path) == "one"


def test_best_and_last_are_kept_while_they_differ(tmp_path):
    claim(tmp_path, "started")
    save(tmp_path, 3, 1, "one")
    save(tmp_path, 6, 1, "two", (LAST,))
    assert (saved(tmp_path, BEST), saved(tmp_path, LAST)) == ("one", "two")
    save(tmp_path, 9, 1, "three", (LAST,))
    assert (saved(tmp_path, BEST), saved(tmp_path, LAST)) == ("one", "three")
    assert entries(tmp_path) == [BEST, LAST, "step-00000003-start-1", "step-00000009-start-1"]


def test_of_two_starts_the_older_is_refused_and_the_newers_checkpoint_stays(tmp_path):
    older = claim(tmp_path, "started")
    save(tmp_path, 3, older, "older")
    newer = claim(tmp_path, "started elsewhere")
    save(tmp_path, 3, newer, "newer")
    before = entries(tmp_path)
    with pytest.raises(InputError, match=r"started again \(start 2\) while this start, 1, still trained; allowed"):
        save(tmp_path, 6, older, "older")
    assert saved(tmp_path) == "newer" and entries(tmp_path) == before
    save(tmp_path, 6, newer, "newer still")
    assert saved(tmp_path) == "newer still"


@pytest.mark.parametrize("swept", [False, True])
def test_a_start_that_is_overtaken_while_it_writes_is_told_so(tmp_path, swept):
    """Also where the newer start has swept away what the older was writing, which then looks like a failing disk."""
    older = claim(tmp_path, "started")

    def overtaken() -> None:
        with new_checkpoint(tmp_path, 3, older, [LAST]) as aside:
            newer = claim(tmp_path, "started elsewhere")
            if swept:
                save(tmp_path, 3, newer, "newer")
            (aside / "manifest.json").write_text("older")

    with pytest.raises(InputError, match=r"started again \(start 2\)"):
        overtaken()
    assert entries(tmp_path) == ([BEST, LAST, "step-00000003-start-2"] if swept else [])
    assert not swept or saved(tmp_path) == "newer"


def test_starts_at_the_same_moment_get_different_numbers(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda number: claim(tmp_path, f"start {number}"), range(40)))
    assert sorted(numbers) == list(range(1, 41)) and newest_start(tmp_path) == 40


def test_lines_behind_the_checkpoint_and_half_lines_are_dropped(tmp_path):
    lines = ['{"step": 0}', '{"step": 5, "part": "val"}', '{"step": 6}', '{"st']
    (tmp_path / METRICS).write_text("\n".join(lines))
    keep_metrics_until(tmp_path, 5)
    assert (tmp_path / METRICS).read_text() == '{"step": 0}\n{"step": 5, "part": "val"}\n'
    assert os.listdir(tmp_path) == [METRICS]
