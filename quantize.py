"""Packs a run's weights into artifact.bin and prints its bytes by tensor and how they compare to the limit.

    python quantize.py runs/NAME
    python quantize.py --forecast --preset seed --model.num-layers 12

`golf quantize` is the same program: golf/programs/quantize.py.
"""

import sys

from golf.programs import quantize


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 when code and artifact do not fit, 2 on bad input, 130 stopped."""
    return quantize.main(arguments, "quantize.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
