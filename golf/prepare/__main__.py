"""`python -m golf.prepare`: text, or shards that somebody published, to a dataset folder."""

import sys

from golf.prepare.prepare import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
