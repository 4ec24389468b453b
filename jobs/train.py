"""Train retrieval and deformation together: what `jr-dist train` does, as a job of a Ray cluster.

    python jobs/train.py configs/quickstart.yaml
    python jobs/train.py configs/quickstart.yaml --dry-run
    ray job submit --working-dir . -- python jobs/train.py configs/paper.yaml --run.path '$JR_STORAGE/runs/chairs' \
        --data.path '$JR_STORAGE/data/chairs' --train.num_workers 4 --train.device cuda --bank.num_shards 4

Inside a job RAY_ADDRESS is set, and the workers start on the cluster; without it, on this machine. data.path and
run.path must lie where every node can reach them; JR_STORAGE is what the nodes have it set to. Say train.device cuda
where GPU nodes come when they are asked for: `auto` takes what is there. Submitted again, the job goes on from the
run's last checkpoint.
"""

import sys

from jr_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
