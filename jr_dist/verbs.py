"""What each verb of the command line takes, and which function of the library it calls."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jr_dist.errors import InputError

if TYPE_CHECKING:
    from jr_dist.config import Config, EvaluateConfig


@dataclass(frozen=True)
class Verb:
    """A verb: its words for the help, its arguments, and what it does. Nothing heavy is imported before `run`."""

    name: str
    summary: str
    description: str
    add_arguments: Callable[[ArgumentParser, Sequence[str]], None]
    run: Callable[[Namespace], None]


# --- synthesize ------------------------------------------------------------------------------------------------


def _synthesize_arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    from jr_dist.cli_arguments import names, whole_number

    parser.add_argument("out", metavar="OUT", help="directory for the dataset, new or empty")
    parser.add_argument("--num-sources", metavar="S", type=whole_number(1), default=60, help="source models [60]")
    parser.add_argument(
        "--num-targets",
        metavar="T",
        type=whole_number(1),
        default=600,
        help="targets of all splits together, 80/10/10 [600]",
    )
    parser.add_argument(
        "--categories",
        metavar="A,B",
        type=names("chair", "table", "cabinet"),
        default=("chair", "table", "cabinet"),
        help="categories, in equal numbers [chair,table,cabinet]",
    )
    parser.add_argument(
        "--seed", metavar="N", type=whole_number(0), default=0, help="the same seed, the same bytes [0]"
    )
    parser.add_argument(
        "--num-points", metavar="N", type=whole_number(32), default=2048, help="points stored of a shape [2048]"
    )


def _synthesize(arguments: Namespace) -> None:
    from jr_dist.data.synthesize.generate import synthesize
    from jr_dist.progress import progress

    what = (
        f"{arguments.num_sources} sources and {arguments.num_targets} targets "
        f"({', '.join(arguments.categories)}), {arguments.num_points} points each, seed {arguments.seed}"
    )
    if arguments.dry_run:
        _check_new(Path(arguments.out))
        print(f"would write {what} to {arguments.out}")
        return
    with progress("synthesize", arguments.num_sources + arguments.num_targets, unit="shape") as state:
        synthesize(
            arguments.out,
            num_sources=arguments.num_sources,
            num_targets=arguments.num_targets,
            categories=arguments.categories,
            seed=arguments.seed,
            num_points=arguments.num_points,
            progress=state,
        )
    print(f"wrote {what} to {arguments.out}")


def _check_new(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"output {path} exists already; allowed is a new or empty directory; name another")


# --- train -----------------------------------------------------------------------------------------------------


def _train_arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    from jr_dist.cli_arguments import add_settings
    from jr_dist.config import known_settings, sections
    from jr_dist.config_file import read_tree

    parser.usage = "%(prog)s [CONFIG.yaml] [--section.key VALUE ...] [--resume auto|never|PATH] [--dry-run]"
    parser.add_argument("config", metavar="CONFIG.yaml", type=Path, nargs="?", help="settings; flags beat the file")
    parser.add_argument(
        "--resume",
        metavar="auto|never|PATH",
        dest="run.resume",
        default=SUPPRESS,
        help="the same as --run.resume",
    )
    # The help shows the values of the file, when the file is among the words.
    files = [word for word in words if word.endswith((".yaml", ".yml")) and Path(word).is_file()]
    tree = read_tree(Path(files[0]), known_settings()) if files and {"-h", "--help"} & set(words) else {}
    values = {f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()}
    for section, model in sections().items():
        add_settings(parser, section, model, values)


def _train(arguments: Namespace) -> None:
    config = load_settings(arguments)
    if arguments.dry_run:
        from jr_dist.cluster import describe
        from jr_dist.train.dry_run import plan_training

        plan = plan_training(config)
        print(f"{plan}\nRay               {describe(config.cluster) if config.train.num_workers else 'not used'}")
        print(f"would write the run to {config.run.path}")
        return
    from jr_dist.progress import field_line
    from jr_dist.train.trainer import train

    result = train(config)
    print(field_line("trained", result.metrics))
    print(f"run directory: {result.path}")


def load_settings(arguments: Namespace) -> Config:
    """The settings of `train`'s arguments: the file, beaten by the flags."""
    from jr_dist.cli_arguments import given_settings
    from jr_dist.config import load_config

    return load_config(arguments.config, given_settings(arguments))


# --- evaluate --------------------------------------------------------------------------------------------------


def _evaluate_arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    from jr_dist.cli_arguments import whole_number

    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directories, all of one dataset")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="directory for tables and report")
    parser.add_argument(
        "--split", choices=("train", "val", "test"), help="split measured [the first run's evaluate.split]"
    )
    parser.add_argument(
        "--num-points",
        metavar="N",
        type=whole_number(32),
        help="points of a shape in the chamfer [the first run's evaluate.num_points]",
    )
    parser.add_argument("--data", metavar="DATASET", type=Path, help="the dataset, where it has moved since training")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute [cpu]")
    parser.add_argument("--seed", metavar="N", type=whole_number(0), default=0, help="seed of the intervals [0]")


def _evaluate(arguments: Namespace) -> None:
    settings = _evaluation_settings(arguments.runs[0])
    split = arguments.split or settings.split
    num_points = arguments.num_points or settings.num_points
    from jr_dist.evaluate.markdown import to_markdown
    from jr_dist.evaluate.protocol import check_output, evaluate
    from jr_dist.train.trained import load_run

    if arguments.dry_run:
        check_output(arguments.out)
        runs = [load_run(path) for path in arguments.runs]
        print(f"would measure {len(runs)} runs on split {split} at {num_points} points a shape:")
        print("\n".join(f"  {path}: {run.method}" for path, run in zip(arguments.runs, runs, strict=True)))
        print(f"would write tables.json, tables.md, tables.csv and report.html to {arguments.out}")
        return
    tables = evaluate(
        arguments.runs,
        split=split,
        num_points=num_points,
        out=arguments.out,
        device=arguments.device,
        seed=arguments.seed,
        data=arguments.data,
    )
    print(to_markdown(tables))
    print(f"report: {arguments.out / 'report.html'}")


def _evaluation_settings(run: Path) -> EvaluateConfig:
    from jr_dist.config import EvaluateConfig, load_config

    path = run / "config.yaml"
    return load_config(path).evaluate if path.is_file() else EvaluateConfig()


# --- fit -------------------------------------------------------------------------------------------------------


def _fit_arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    from jr_dist.cli_arguments import whole_number

    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("inputs", metavar="INPUT", nargs="+", type=Path, help="meshes, point clouds, folders of them")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="directory for the results")
    parser.add_argument("--top-k", metavar="K", type=whole_number(1), default=5, help="candidates deformed [5]")
    parser.add_argument("--category", metavar="NAME", help="only sources of this category")
    parser.add_argument(
        "--up",
        choices=("x", "y", "z", "-x", "-y", "-z"),
        default="y",
        help="the axis that points up in the inputs [y]",
    )
    parser.add_argument("--index", metavar="CSV", type=Path, help="a table of the inputs' up axes and sizes")
    parser.add_argument("--num-points", metavar="N", type=whole_number(32), default=2048, help="points matched [2048]")
    parser.add_argument("--refine", action="store_true", help="improve each deformation by IDO; the better is kept")
    parser.add_argument("--pictures", action="store_true", help="write picture.png beside each result")
    parser.add_argument("--seed", metavar="N", type=whole_number(0), default=0, help="seed of the sampled points [0]")
    parser.add_argument("--data", metavar="DATASET", type=Path, help="the dataset, where it has moved since training")


def _fit(arguments: Namespace) -> None:
    from jr_dist.serve.fit import fit, result_names
    from jr_dist.serve.inputs import find_inputs
    from jr_dist.train.trained import load_run

    if arguments.dry_run:
        found = find_inputs(arguments.inputs, up=arguments.up, index=arguments.index, out=arguments.out)
        run = load_run(arguments.run)
        print(f"would fit {len(found)} inputs to {len(run.source_ids)} sources by {arguments.run} ({run.method}):")
        names = result_names([entry.path for entry in found])
        print("\n".join(f"  {entry.path} -> {arguments.out / name}" for entry, name in zip(found, names, strict=True)))
        return
    results = fit(
        arguments.run,
        arguments.inputs,
        out=arguments.out,
        top_k=arguments.top_k,
        up=arguments.up,
        index=arguments.index,
        category=arguments.category,
        num_points=arguments.num_points,
        refine=arguments.refine,
        pictures=arguments.pictures,
        seed=arguments.seed,
        data=arguments.data,
    )
    for result in results:
        best = result.candidates[0]
        print(
            f"{result.input}: {best.source}, chamfer x100 {best.chamfer_before_x100:.3f} -> "
            f"{best.chamfer_after_x100:.3f}, {result.path / best.glb}"
        )


VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "synthesize",
            "make a dataset of procedural furniture",
            "Write a dataset of chairs, tables and cabinets whose part structures really differ. Targets are drawn "
            "independently of sources, so many have a structure that no source has.",
            _synthesize_arguments,
            _synthesize,
        ),
        Verb(
            "train",
            "train retrieval and deformation together on a dataset",
            "Train one method on a dataset: `ours` (retrieval and deformation jointly), `uniform` (candidates drawn "
            "uniformly) or `df` (deformation alone). A run that was interrupted goes on where it stopped.\n\n"
            "Settings come from CONFIG.yaml; a flag --section.key VALUE beats the file, in any order. The value in "
            "force stands in brackets.",
            _train_arguments,
            _train,
        ),
        Verb(
            "evaluate",
            "measure trained runs: the paper's tables, with intervals",
            "Measure runs on a split of their dataset, top-1 and with oracle retrieval, beside the baselines that need "
            "no training. Writes tables.json, tables.md, tables.csv and one offline report.html.",
            _evaluate_arguments,
            _evaluate,
        ),
        Verb(
            "fit",
            "find and deform the best source models for a scan or a mesh",
            "For each input (a mesh, a point cloud as PLY, XYZ or NPY, or a folder of them) find the best source "
            "models and deform them. Writes DIR/STEM/ with result.json and rank-1.glb ...: one named node a part, "
            "in the frame and units of the input.",
            _fit_arguments,
            _fit,
        ),
    )
}
