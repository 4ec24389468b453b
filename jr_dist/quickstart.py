"""The whole story on procedural furniture: a dataset, four methods, the comparison, and scans fitted.

python -m jr_dist.quickstart [--data data/quickstart] [--runs runs/quickstart]
       [--device auto|cpu|cuda] [--section.key value ...]

`make quickstart` runs it. What an earlier call finished is kept: a dataset of the same numbers, trained runs.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jr_dist.cli import guarded
from jr_dist.cli_arguments import Parser, add_settings, given_settings, whole_number
from jr_dist.config import load_config, sections
from jr_dist.errors import InputError
from jr_dist.progress import duration, progress

ROOT = Path(__file__).parent.parent
SETTINGS = ROOT / "configs" / "quickstart.yaml"
METHODS = ("ours", "uniform", "df", "mds")
CATEGORIES = ["cabinet", "chair", "table"]
#: what is decided here, or by an option of its own
DECIDED = ("data.path", "run.path", "train.method", "train.device", "evaluate.num_workers", "evaluate.num_gpus")
#: sections of other commands and methods
ELSEWHERE = ("compare", "labels", "sweep")


def quickstart(arguments: Namespace) -> None:
    """Synthesize, train `METHODS` side by side in one Ray session, evaluate them, fit scans; print where things are."""
    from jr_dist.evaluate.markdown import to_markdown
    from jr_dist.evaluate.protocol import evaluate
    from jr_dist.serve.fit import fit
    from jr_dist.train.checks import require_cuda
    from jr_dist.train.trainer import train_side_by_side

    if arguments.device == "cuda":
        require_cuda("--device")
    settings = {**given_settings(arguments), "train.device": arguments.device}
    runs = {method: arguments.runs / method for method in METHODS}
    configs = {
        method: load_config(
            SETTINGS,
            {**settings, "data.path": str(arguments.data), "run.path": str(path), "train.method": method},
        )
        for method, path in runs.items()
    }
    with _stage("synthesize"):
        _dataset(arguments)
    with _stage("train " + ", ".join(METHODS)):
        train_side_by_side(list(configs.values()))
    chosen = configs["ours"].evaluate
    report = arguments.runs / "evaluation"
    with _stage("evaluate"):
        tables = evaluate(
            list(runs.values()),
            split=chosen.split,
            num_points=chosen.num_points,
            out=report,
            protocols=chosen.protocols,
            ido=chosen.ido,
            ido_settings=configs["ours"].ido,
            device=_evaluation_device(arguments.device),
        )
    with _stage("fit"):
        results = fit(runs["ours"], [arguments.data / "scans"], out=arguments.runs / "fit", top_k=3, pictures=True)
    print(to_markdown(tables))
    print(f"report: {report / 'report.html'}")
    print("fitted: " + " ".join(str(result.path / result.candidates[0].glb) for result in results))


def _evaluation_device(device: str) -> str:
    if device == "auto":
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _dataset(arguments: Namespace) -> None:
    from jr_dist.data.dataset import open_dataset
    from jr_dist.data.synthesize.generate import synthesize

    numbers = {
        "num_sources": arguments.num_sources,
        "num_targets": arguments.num_targets,
        "categories": CATEGORIES,
        "seed": arguments.seed,
        "num_points": 2048,
    }
    if not (arguments.data / "manifest.json").is_file():
        with progress("synthesize", arguments.num_sources + arguments.num_targets, unit="shape") as state:
            synthesize(arguments.data, **numbers, progress=state)
        return
    how = open_dataset(arguments.data).manifest.how
    other = [f"{name} {how.get(name)}" for name, value in numbers.items() if how.get(name) != value]
    if other:
        raise InputError(
            f"dataset {arguments.data} was made with {', '.join(other)}; allowed is what this call asks for; remove it "
            "or name another with --data"
        )


@contextmanager
def _stage(name: str) -> Iterator[None]:
    print(f"== {name}", flush=True)
    start = time.perf_counter()
    yield
    print(f"== {name}: {duration(time.perf_counter() - start)}", flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = Parser(prog="python -m jr_dist.quickstart", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data/quickstart"), help="the dataset [data/quickstart]")
    parser.add_argument("--runs", type=Path, default=Path("runs/quickstart"), help="the runs [runs/quickstart]")
    parser.add_argument("--num-sources", type=whole_number(3), default=72, help="source models [72]")
    parser.add_argument("--num-targets", type=whole_number(30), default=900, help="targets of all splits [900]")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="seed of the dataset [0]")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train and evaluate [auto]"
    )
    for section, model in sections().items():
        if section not in ELSEWHERE:
            add_settings(parser, section, model, {}, without=DECIDED)
    words = sys.argv[1:] if words is None else words
    return guarded("quickstart", lambda: quickstart(parser.parse(words)))


if __name__ == "__main__":
    sys.exit(main())
