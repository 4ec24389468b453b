"""Settings searched on the validation split: what `jr-dist sweep` does, as a job of a Ray cluster.

    python jobs/sweep.py configs/sweep.yaml
    python jobs/sweep.py configs/sweep.yaml --dry-run
    ray job submit --working-dir . -- python jobs/sweep.py configs/sweep.yaml --run.path /shared/runs/sweep \
        --sweep.trials 64 --train.num_workers 2

data.path and run.path must lie where every node can reach them. Submitted again, the job goes on where it stopped.
"""

import sys

from jr_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
