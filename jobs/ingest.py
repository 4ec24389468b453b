"""Turn a folder of meshes into a dataset: what `jr-dist ingest` does, as a job of a Ray cluster.

    python jobs/ingest.py models data/mine
    python jobs/ingest.py models data/mine --dry-run
    ray job submit --working-dir . -- python jobs/ingest.py /shared/models '$JR_STORAGE/data/mine'

The files are read by every processor of the cluster, so PATH must lie where every node can reach it; this process
writes OUT. A file that can't be used is listed with its reason and never stops the rest.
"""

import sys

from jr_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["ingest", *sys.argv[1:]]))
