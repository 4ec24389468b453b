"""`python -m jr_dist VERB` is `jr-dist VERB`."""

import sys

from jr_dist.cli import main

if __name__ == "__main__":
    sys.exit(main())
