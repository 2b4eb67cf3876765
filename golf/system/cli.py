"""Exit codes and one-line errors of every program."""

import sys
from collections.abc import Callable, Mapping

BAD_INPUT, STOPPED = 2, 130
"""Exit codes that all programs share; 0 is success, 1 has a meaning of its own in each program."""


def run_program(
    name: str,
    work: Callable[[], int | None],
    codes: Mapping[type[Exception], int] | None = None,
    when_stopped: str = "stopped",
) -> int:
    """Calls `work` and returns its exit code, 0 for None.

    The exceptions in `codes` return their code, ValueError and OSError return 2, Ctrl-C returns 130; each
    prints one line to standard error. Any other exception is a bug of the program and propagates.
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
