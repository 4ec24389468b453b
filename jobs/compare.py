"""Every method trained and measured under one budget: what `jr-dist compare` does, as a job of a Ray cluster.

    python jobs/compare.py configs/compare.yaml
    python jobs/compare.py configs/compare.yaml --dry-run
    ray job submit --working-dir . -- python jobs/compare.py configs/compare.yaml --train.num_workers 8 \
        --evaluate.num_workers 16 --run.path '$JR_STORAGE/runs/compare'

data.path and run.path must lie where every node can reach them; JR_STORAGE is what the nodes have it set to. Submitted
again, the job goes on where it stopped.
"""

import sys

from jr_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
