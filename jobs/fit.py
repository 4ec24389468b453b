"""Find and deform the best source models for scans: what `jr-dist fit` does, as a job of a Ray cluster.

    python jobs/fit.py runs/quickstart/ours scan.ply --out fitted
    python jobs/fit.py runs/quickstart/ours scan.ply --out fitted --dry-run
    ray job submit --working-dir . -- python jobs/fit.py /shared/runs/ours /shared/scans --out /shared/fitted

The run, its dataset, the inputs and DIR must lie where the node that runs the job can reach them.
"""

import sys

from jr_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["fit", *sys.argv[1:]]))
