"""Render pictures of a dataset: what `jr-dist render` does, as a job of a Ray cluster.

    python jobs/render.py data/furniture --num-views 24
    python jobs/render.py data/furniture --dry-run
    ray job submit --working-dir . -- python jobs/render.py /shared/furniture --num-workers 32

One renderer an actor, a processor each; with --backend moderngl four share a GPU where the cluster has any. A cluster
that grows gets nodes for as many as --num-workers says; without it, those work that there is room for. The actors read
DATASET, which must lie where every node can reach it; this process writes the files. Submitted again, it renders only
what is missing.
"""

import sys

from jr_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["render", *sys.argv[1:]]))
