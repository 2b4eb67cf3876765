"""Scores an artifact, or an entry that holds one, with test-time training: grade first, then learn from it.

    python ttt.py ARTIFACT_OR_ENTRY --data DIR [--method sgd|lora] [--order length|stream]
    torchrun --standalone --nproc_per_node=8 ttt.py ...        lora shares the documents, sgd has one process

`golf ttt` is the same program: golf/programs/ttt.py.
"""

import sys

from golf.programs import ttt


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return ttt.main(arguments, "ttt.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
