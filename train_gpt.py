"""Trains a language model, packs it with its code into at most 16,000,000 bytes, and scores the packed bytes.

python train_gpt.py                                  the whole run, with what this machine has
python train_gpt.py --resume runs/NAME               goes on with a run that was stopped
python train_gpt.py --out runs/NAME --requeue        begins a run, or goes on with it: for schedulers
python train_gpt.py --score artifact.bin --data DIR  scores an artifact in this process

The stages of a run, one after the other, are in golf/programs/train.py; `golf train` is the same program.
"""

import sys

from golf.programs import train


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 over the limit, 2 unusable input, 130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1."""
    return train.main(arguments, "train_gpt.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
