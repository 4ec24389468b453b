"""Every method trained and measured under one budget: what `jr-dist compare` does, as a job of a Ray cluster.

    python jobs/compare.py configs/compare.yaml
    python jobs/compare.py configs/compare.yaml --dry-run
    ray job submit --working-dir . -- python jobs/compare.py configs/compare.yaml --run.path /shared/runs/compare \
        --train.num_workers 8 --evaluate.num_workers 16

data.path and run.path must lie where every node can reach them. Submitted again, the job goes on where it stopped.
"""

import sys

from jr_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
