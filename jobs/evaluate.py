"""Measure trained runs: what `jr-dist evaluate` does, as a job of a Ray cluster.

    python jobs/evaluate.py runs/quickstart/ours runs/quickstart/df --out runs/quickstart/tables
    python jobs/evaluate.py runs/quickstart/ours runs/quickstart/df --out runs/quickstart/tables --dry-run
    ray job submit --working-dir . -- python jobs/evaluate.py /shared/runs/ours /shared/runs/df --out /shared/tables

The runs, their dataset and DIR must lie where the node that runs the job can reach them.
"""

import sys

from jr_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
