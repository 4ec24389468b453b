"""Make a dataset of procedural furniture: what `jr-dist synthesize` does, as a job of a Ray cluster.

    python jobs/synthesize.py data/quickstart --num-sources 60 --num-targets 600
    python jobs/synthesize.py data/quickstart --num-sources 60 --num-targets 600 --dry-run
    ray job submit --working-dir . --entrypoint-num-cpus 1 -- python jobs/synthesize.py '$JR_STORAGE/data/quickstart'

On a cluster, OUT must lie where every node can read it: a shared file system, or an s3:// or gs:// address; JR_STORAGE
is what the nodes have it set to. One process does it, on a node with a processor to give, not on the head.
"""

import sys

from jr_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["synthesize", *sys.argv[1:]]))
