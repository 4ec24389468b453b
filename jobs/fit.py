"""Find and deform the best source models for scans: what `jr-dist fit` does, as a job of a Ray cluster.

    python jobs/fit.py runs/quickstart/ours scan.ply --out fitted
    python jobs/fit.py runs/quickstart/ours scan.ply --out fitted --dry-run
    ray job submit --working-dir . --entrypoint-num-cpus 1 -- python jobs/fit.py /shared/runs/ours /shared/scans \
        --out /shared/fitted

One process does it, on a node with a processor to give, not on the head: that is what the last option but the command
says. The run, its dataset, the inputs and DIR must lie where that node can reach them.
"""

import sys

from jr_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["fit", *sys.argv[1:]]))
