"""Train retrieval and deformation together: what `jr-dist train` does, as a job of a Ray cluster.

    python jobs/train.py configs/quickstart.yaml
    python jobs/train.py configs/quickstart.yaml --dry-run
    ray job submit --working-dir . -- python jobs/train.py configs/paper.yaml --run.path /shared/runs/chairs

Inside a job RAY_ADDRESS is set, and the workers start on the cluster; without it, on this machine. data.path and
run.path must lie where every node can reach them; train.num_workers says how many workers. Submitted again, the
job goes on from the run's last checkpoint.
"""

import sys

from jr_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
