r"""Does joint training pay? Ours, Uniform Sampling and DF under one budget, several seeds, on one dataset.

    python benchmarks/joint_training.py                          # three seeds of configs/quickstart.yaml
    python benchmarks/joint_training.py --quick                  # one seed, a tenth of the epochs: does it run?
    python benchmarks/joint_training.py --methods ours --seeds 0 --out runs/letter --set retrieval.sigma0=100 \
        retrieval.loss=l1 retrieval.fit_scale=learned train.optimizer=sgd train.alternate=true \
        train.weight_decay=5e-4 train.schedule=constant       # the paper's letter at the quickstart's size

Runs that are finished are not trained again. Tables, intervals and the report go to OUT/evaluation.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from jr_dist.config import Config, load_config
from jr_dist.evaluate.protocol import evaluate
from jr_dist.train.trainer import train


def main() -> None:
    """Train every method with every seed, then evaluate all runs in one table."""
    options = parse()
    runs, seconds = [], {}
    for seed in options.seeds:
        for method in options.methods:
            config = configure(options, method, seed)
            started = time.monotonic()
            runs.append(train(config).path)
            seconds[f"{method}/{seed}"] = round(time.monotonic() - started, 1)
    evaluate([*runs, *options.also], split=options.split, num_points=options.num_points, out=options.out / "evaluation")
    print((options.out / "evaluation" / "tables.md").read_text())
    print("seconds of training (0 where the run was finished already):", seconds)
    if options.json:
        options.json.write_text(json.dumps(records(options.out / "evaluation" / "tables.json"), indent=1))


def configure(options: argparse.Namespace, method: str, seed: int) -> Config:
    """The settings of one run: only method and seed differ, so data, updates and pairs are equal."""
    overrides = {
        "train.method": method,
        "train.seed": str(seed),
        "train.num_workers": "0",
        "run.path": str(options.out / f"{method}-{seed}"),
        **dict(setting.split("=", 1) for setting in options.set),
    }
    if options.data:
        overrides["data.path"] = str(options.data)
    config = load_config(options.config, overrides)
    if options.quick:
        epochs = max(2, config.train.epochs // 10)
        overrides |= {"train.epochs": str(epochs), "train.warmup_epochs": "1", "train.validate_every": "1"}
        config = load_config(options.config, overrides)
    return config


def records(tables: Path) -> list[dict]:
    """The paired differences as benchmark records."""
    return [
        {
            "name": f"joint_training.{entry['retrieval']}.{entry['category']}.{entry['method']}",
            "value": entry["difference_x100"],
            "unit": "chamfer x100",
            "peer": entry["against"],
            "ratio": None,
            "low": entry["low"],
            "high": entry["high"],
        }
        for entry in json.loads(tables.read_text())["comparisons"]
    ]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--data", type=Path, help="dataset; default: the config's")
    parser.add_argument("--methods", nargs="+", default=["ours", "uniform", "df"])
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--also", nargs="*", default=[], help="finished runs to put into the same table")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE", help="settings for all runs")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num-points", type=int, default=2048)
    parser.add_argument("--out", type=Path, default=Path("runs/joint-training"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.seeds = options.seeds or ([0] if options.quick else [0, 1, 2])
    return options


if __name__ == "__main__":
    main()
