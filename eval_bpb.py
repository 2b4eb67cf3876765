"""Scores an artifact, or an entry that holds one, in bits per byte; audits, proves or verifies the score.

    python eval_bpb.py ARTIFACT_OR_ENTRY --data DIR            the score; by torchrun, of several processes
    python eval_bpb.py ARTIFACT_OR_ENTRY --data DIR --audit    does its scorer keep the rules?
    python eval_bpb.py ARTIFACT_OR_ENTRY --data DIR --prove    is the text restored from so many bits?
    python eval_bpb.py --verify ENTRY --data DIR               are its stated figures true?

`golf score` is the same program: golf/programs/score.py.
"""

import sys

from golf.programs import score


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 for a fault found, 2 bad input, 130 stopped."""
    return score.main(arguments, "eval_bpb.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
