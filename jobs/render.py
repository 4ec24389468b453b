"""Render pictures of a dataset: what `jr-dist render` does, as a job of a Ray cluster.

    python jobs/render.py data/furniture --num-views 24
    python jobs/render.py data/furniture --dry-run
    ray job submit --working-dir . -- python jobs/render.py /shared/furniture --backend moderngl

One renderer an actor, on every processor of the cluster. The actors read DATASET, which must lie where every node can
reach it; this process writes the files. Submitted again, it renders only what is missing.
"""

import sys

from jr_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["render", *sys.argv[1:]]))
