"""How every program ends: with an exit code, and in one line where it cannot go on."""

import sys
from collections.abc import Callable, Mapping

BAD_INPUT, STOPPED = 2, 130
"""Exit codes of all programs, beside 0 and their own 1."""


def run_program(
    name: str,
    work: Callable[[], int | None],
    codes: Mapping[type[Exception], int] | None = None,
    when_stopped: str = "stopped",
) -> int:
    """The exit code of `work`, 0 where it returns none.

    What it raises of `codes`, ValueError and OSError (2), and Ctrl-C (130) end in a line on standard error;
    anything else is a fault of the program, and comes through.
    """
    codes = dict(codes or {})
    try:
        return work() or 0
    except KeyboardInterrupt:
        print(f"{name}: {when_stopped}", file=sys.stderr)
        return STOPPED
    except (*codes, ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return next((code for kind, code in codes.items() if isinstance(error, kind)), BAD_INPUT)
