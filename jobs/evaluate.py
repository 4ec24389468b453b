"""Measure trained runs: what `jr-dist evaluate` does, as a job of a Ray cluster.

    python jobs/evaluate.py runs/quickstart/ours runs/quickstart/df --out runs/quickstart/tables
    python jobs/evaluate.py runs/quickstart/ours runs/quickstart/df --out runs/quickstart/tables --dry-run
    ray job submit --working-dir . -- python jobs/evaluate.py /shared/runs/ours /shared/runs/df --out /shared/tables \
        --num-workers 16

Actors measure, a processor each, and with --num-gpus a GPU or a share of one. The runs and their dataset must lie where
every node can reach them, DIR where the node that runs the job does. Submitted again, it measures what is missing.
"""

import sys

from jr_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
