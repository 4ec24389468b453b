"""docs/benchmarks.md and its picture, made of the CSV files that the benchmarks wrote.

    python benchmarks/page.py

Nothing is measured here. tests/test_benchmark_page.py holds the page to what this makes of the files.
"""

from __future__ import annotations

import csv
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from goals import GOALS, Goal, goal_of
from page_picture import Bar, draw
from records import ROOT, Origin, Record, Row, read_rows

from jr_dist.atomic import atomic_write

RESULTS = ROOT / "docs" / "results"
PAGE, PICTURE = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "images" / "benchmarks.png"
QUICKSTART = "quickstart."


@dataclass(frozen=True)
class Topic:
    """A table of the page: records whose names begin so."""

    title: str
    prefixes: tuple[str, ...]
    text: str
    left_out: str = "$^"  # names that stay in the CSV file alone


TOPICS = (
    Topic(
        "Chamfer", ("chamfer.",),
        "Value and gradient of a pair of 2048 points, 160 pairs; the worse of near and unrelated pairs.",
    ),
    Topic(
        "Training step", ("step.",),
        "16 targets, 10 candidates each, 2048 points, 100 sources, default networks. The peer is the published "
        "formulation (`benchmarks/published.py`), its chamfer by torch.cdist or by a compiled brute force in two "
        "passes, its encoders by torch's layers. `without_encoders`: both updates, the encoders of both sides replaced "
        "by a table. What is left of `joint` is the encoders: their products bound it.",
    ),
    Topic(
        "Epoch", ("epoch.",),
        "A training epoch of the quickstart's settings in one process, reading targets included. The peer's time is "
        "reckoned from steps of the published formulation on the same numbers.",
    ),
    Topic(
        "Oracle", ("oracle.",),
        "The ten best of 500 sources for a target, exact, a pair; the lesser ratio of two settings.",
    ),
    Topic(
        "IDO", ("ido.",),
        "Milliseconds a pair until the mean loss over pairs is that of gradient descent's end (2,000 steps; "
        "`_to_1pct`: 1.01 times that). Losses are ours by gradient descent's, pair by pair.",
        r"ido\.(sgd|mean_loss|anderson|starts\.mean_loss)|.*iterations|ido\.(near|random)\.(?!\w+\.loss_median)",
    ),
    Topic(
        "Proposals", ("bank.",),
        "Ten candidates for each of 16 targets out of 100,000 sources of 256 dimensions, and a step of the bank.",
        r"bank\.(pull|push|wait|train|memory_)",
    ),
    Topic(
        "Rendering", ("render.",),
        "Pictures of 224 x 224 a second, edges smoothed: furniture of 700 triangles, dense shapes of 82,000. The "
        "pipeline is Ray Data's with so many actors, wall time.",
    ),
    Topic(
        "Ingest", ("ingest.",),
        "Files a second in one process, and milliseconds a file of its stages. The verb checks a file, finds parts and "
        "joints, samples twice, draws it and writes Parquet; of that the peer reads and samples once.",
    ),
    Topic(
        "Fit", ("fit.",),
        "A scan of 2048 points among 72 sources, five candidates deformed; the peer deforms none. `command` is all of "
        "`jr-dist fit` for one scan, processor time, about half of it imports.",
    ),
    Topic(
        "GPU", ("chamfer_gpu.", "step_gpu.", "ido_gpu.", "gpu_resources."),
        "`gpu_resources` is what kernels compile to for sm_90, which needs no GPU; [gpu.md](gpu.md) reads it.",
        r"gpu_resources\.(?!search)|gpu_resources\.\w+\.(shared|arithmetic)",
    ),
)  # fmt: skip

INTRODUCTION = """\
# Benchmarks

Made by `python benchmarks/page.py` of the files in [results/benchmarks/](results/benchmarks/); a test holds it to them.
`make bench` measures again, in less than ten minutes of an idle machine of two cores, and makes the page anew.

**How a ratio was taken.** Ours and its peers do the same work in the same process, in turns; the time is the
processor's where one thread works (wall time is named), the ratio is taken round by round, and the median stands here,
with least and most in brackets. So a machine that slows down for a while slows both. A peer is what a user would pick
instead, in the fastest form that we found for it; answers are compared before they are timed. A ratio below 1 says that
we are slower.

**Limits** are measured as well: the least work of a kind, over what this machine does when it does nothing else.
*Needed distances*: those between points that boxes around 16 of them can't rule out, were each nearest neighbour known
from the start, eight instructions each, at the rate of bare arithmetic on 16 lanes; sorting, boxes and gradients for
nothing. *Products of the encoders*: dense, forward and backward, at the rate of torch.mm. *Reading*: all that is
searched, once, at the rate of memory. *Rays alone*: Embree's first hits. *trimesh reads the file*: ours reads with it.
Where others use the machine's cores as well its rates change within minutes: shares above 100 % say no more than that.

**What they don't say.** Times belong to the machine named below each table. One thread is not a server with all its
cores busy, where memory is shared. The published formulation is written anew from its description
(`benchmarks/published.py` says what was kept and what was left out in its favour), so its figures are not those of the
authors' program. The shapes are procedural. Speed is no quality: for that see
[results/comparison.md](results/comparison.md).
"""


def read_all(folder: Path) -> list[Row]:
    """The rows of all files, by name of file."""
    return [row for path in sorted(folder.glob("*.csv")) for row in read_rows(path)]


def page(results: Path) -> str:
    """The text, of the CSV files in `results` / benchmarks and of the long studies beside it."""
    rows = read_all(results / "benchmarks")
    parts = [INTRODUCTION, *_goals(rows)]
    parts += [
        "## All ratios\n",
        "![ratios to each peer](images/benchmarks.png)\n",
    ]
    known: list[Row] = []
    for topic in TOPICS:
        own = [row for row in rows if row.record.name.startswith(topic.prefixes)]
        known += own
        parts += _topic(topic, own)
    others = [row for row in rows if row not in known and not row.record.name.startswith(QUICKSTART)]
    parts += _topic(Topic("Others", (), ""), others) if others else []
    parts += _quickstart([row for row in rows if row.record.name.startswith(QUICKSTART)])
    parts += _long_studies(results)
    return "\n".join(parts)


def bars(rows: Sequence[Row]) -> list[Bar]:
    """What the picture shows: every ratio that the tables show."""
    found = []
    for topic in TOPICS:
        for row in _shown(topic, [row for row in rows if row.record.name.startswith(topic.prefixes)]):
            goal = goal_of(row.record.name)
            level = goal.level if goal and goal.of == "ratio" else None
            if row.record.ratio:
                found.append(Bar(topic.title, row.record.name, row.record.ratio, level))
    return found


# ---- tables ------------------------------------------------------------------------------------


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table, with an empty line behind it."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"


def number(value: float) -> str:
    """Three digits, without an exponent where that can be read."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _goals(rows: Sequence[Row]) -> list[str]:
    values = {row.record.name: row.record for row in rows}
    heads = ("goal", "record", "asked", "measured", "", "what bounds it")
    return [
        "## Goals\n",
        table(heads, [_goal(goal, values) for goal in GOALS]),
        _wrapped("The goal of two workers, and what stops them, stands in [scaling.md](scaling.md#a-second-worker)."),
    ]


def _goal(goal: Goal, values: dict[str, Record]) -> list[str]:
    record = values.get(goal.name)
    bound = re.sub(r"\{(.*?)\}", lambda found: _value(values, found.group(1)), goal.bound)
    if record is None:
        verdict = "not measured: no GPU" if "_gpu." in goal.name else "not measured"
        return [goal.what, f"`{goal.name}`", goal.text, "", verdict, bound]
    value = record.ratio if goal.of == "ratio" else record.value
    assert value is not None, f"{goal.name} has no {goal.of}"
    verdict = "" if goal.level is None else "met" if goal.met_by(value) else "**not met**"
    limit = "" if record.limit is None else f"at {_of_limit(record)} of its limit ({record.limit_is})"
    bounds = "; ".join(part for part in (limit, bound) if part)
    measured = f"{number(value)}{_spread(record) if goal.of == 'ratio' else ''}"
    return [goal.what, f"`{goal.name}`", goal.text, measured, verdict, bounds]


def _value(values: dict[str, Record], name: str) -> str:
    return number(values[name].value) if name in values else "(not measured)"


def _topic(topic: Topic, rows: Sequence[Row]) -> list[str]:
    parts = [f"## {topic.title}\n", *([_wrapped(topic.text)] if topic.text else [])]
    expected = [*(goal.name for goal in GOALS), *_gpu_records()]
    expected = [name for name in dict.fromkeys(expected) if topic.prefixes and name.startswith(topic.prefixes)]
    missing = [name for name in expected if name not in [row.record.name for row in rows]]
    if missing:
        why = "not measured: no GPU" if topic.title == "GPU" else "not measured"
        parts.append(_wrapped(f"**{why}**: {', '.join(f'`{name}`' for name in missing)}."))
    shown = _shown(topic, rows)
    if shown:
        heads = ("record", "ours", "unit", "share", "peer", "theirs", "ratio", "limit", "of it", "the limit is")
        columns = list(zip(*(_cells(row.record, _share(row, shown)) for row in shown), strict=True))
        used = [place for place in range(len(heads)) if place < 3 or any(columns[place])]
        parts.append(table([heads[p] for p in used], zip(*(columns[p] for p in used), strict=True)))
        more = len(rows) - len(shown)
        parts += _origins(shown, f" {more} more records in its file." if more else "")
    return parts


def _gpu_records() -> list[str]:
    """The records that the benchmarks for a GPU name."""
    texts = [path.read_text() for path in sorted(Path(__file__).parent.glob("*_gpu.py"))]
    return [name for text in texts for name in re.findall(r'"(\w+_gpu\.\w+)"', text)]


def _shown(topic: Topic, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not re.match(topic.left_out, row.record.name)]


def _share(row: Row, rows: Sequence[Row]) -> str:
    """Of a stage of several, `NAME.stage.STAGE`, the share of their time."""
    what, stage, _ = row.record.name.partition(".stage.")
    if not stage:
        return ""
    total = sum(other.record.value for other in rows if other.record.name.startswith(what + stage))
    return f"{row.record.value / total:.0%}"


def _cells(record: Record, share: str) -> list[str]:
    ratio = "" if record.ratio is None else f"{number(record.ratio)}{_spread(record)}"
    own = _spread(record) if record.ratio is None else ""
    theirs = _theirs(record)
    return [
        f"`{record.name}`", number(record.value) + own, record.unit, share, record.peer or "",
        "" if theirs is None else number(theirs), ratio,
        "" if record.limit is None else number(record.limit),
        "" if record.limit is None else _of_limit(record), record.limit_is or "",
    ]  # fmt: skip


def _is_rate(record: Record) -> bool:
    return record.unit.endswith("/s")


def _theirs(record: Record) -> float | None:
    if record.ratio is None:
        return None
    return record.value / record.ratio if _is_rate(record) else record.value * record.ratio


def _of_limit(record: Record) -> str:
    assert record.limit is not None
    return f"{record.value / record.limit if _is_rate(record) else record.limit / record.value:.0%}"


def _spread(record: Record) -> str:
    if record.low is None or record.high is None or record.rounds == 1:
        return ""
    return f" ({number(record.low)} to {number(record.high)})"


def _origins(rows: Sequence[Row], more: str) -> list[str]:
    """A line for each command, commit and machine that the rows come from."""
    found: dict[Origin, int] = {}
    for row in rows:
        found[row.origin] = found.get(row.origin, 0) + 1
    lines = [
        _wrapped(
            f"*{'' if len(found) == 1 else f'{count} of them: '}`{origin.command}` at `{origin.commit}`"
            f"{', with changes not committed' if origin.dirty else ''}, {origin.date} UTC. {origin.hardware}.{more}*"
        )
        for origin, count in found.items()
    ]
    return list(dict.fromkeys(lines))


def _wrapped(text: str) -> str:
    """A paragraph."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"


# ---- what has a form of its own ----------------------------------------------------------------


def _quickstart(rows: Sequence[Row]) -> list[str]:
    """Stages by label: `quickstart.LABEL.STAGE`, the first label being what the last is compared with."""
    parts = [
        "## Quickstart\n",
        _wrapped("Seconds of `make quickstart`, wall time on all cores, by stage, with kernels already compiled."),
    ]
    if not rows:
        return [*parts, "Not measured.\n"]
    seconds: dict[str, dict[str, float]] = {}
    for row in rows:
        label, _, stage = row.record.name.removeprefix(QUICKSTART).partition(".")
        seconds.setdefault(stage, {})[label] = row.record.value
    labels = list(dict.fromkeys(label for own in seconds.values() for label in own))
    compared = len(labels) > 1

    def line(stage: str, own: dict[str, float]) -> list[str]:
        cells = [f"{own[label]:.1f}" if label in own else "" for label in labels]
        both = compared and {labels[0], labels[-1]} <= set(own)
        return [stage, *cells, *([f"{own[labels[0]] / own[labels[-1]]:.2f}" if both else ""] if compared else [])]

    heads = ["stage", *labels, *([f"{labels[0]} / {labels[-1]}"] if compared else [])]
    return [*parts, table(heads, [line(stage, own) for stage, own in seconds.items()]), *_origins(rows, "")]


def _long_studies(results: Path) -> list[str]:
    """Studies of their own commands, from their own files."""
    parts = ["## Longer studies\n"]
    if (results / "workers.csv").is_file():
        rates: dict[str, dict[str, list[float]]] = {}
        with open(results / "workers.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                key = f"{row['work']}, {row['unit']}"
                rates.setdefault(key, {}).setdefault(row["contender"], []).append(float(row["rate"]))
        names = list(next(iter(rates.values())))
        lines = [[key, *(number(median(own[name])) for name in names)] for key, own in rates.items()]
        parts += [
            _wrapped(
                "What a second worker brings: medians of the rounds in [results/workers.csv](results/workers.csv) "
                "(`make scaling`); [scaling.md](scaling.md) reads them."
            ),
            table(["work", *names], lines),
        ]
    if (results / "steps.csv").is_file():
        runs = len((results / "steps.csv").read_text().splitlines()) - 1
        text = f"The model of a step: {runs} runs in [results/steps.csv](results/steps.csv), "
        parts.append(_wrapped(text + "fitted and checked in [scaling.md](scaling.md)."))
    others = ", ".join(f"`{name}.py`" for name in ("real_fit", "segmentation", "masks", "photos", "image_streams"))
    parts.append(_wrapped(f"Measured by their own commands alone: {others}, `streams.py`, and `bank.py` with actors."))
    return parts


def main() -> None:
    """Write the page and its picture."""
    atomic_write(PAGE, page(RESULTS))
    draw(PICTURE, bars(read_all(RESULTS / "benchmarks")))
    print(f"{PAGE.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
