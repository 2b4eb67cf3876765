"""Exit codes, signals and one-line errors of every program."""

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

BAD_INPUT, STOPPED, BROKEN_PIPE = 2, 130, 141
"""Exit codes that all programs share; 0 is success, 1 has a meaning of its own in each program."""
STOP_SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)
"""Ctrl-C; a scheduler, a cloud or a container that ends the program; a terminal that was closed; SLURM, some
time before it ends a job (`sbatch --signal`). Windows has the first two alone."""


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop; its text says how far it came."""

    def __init__(self, text: str = "", signum: int = signal.SIGINT):
        super().__init__(text)
        self.signum = signum

    @property
    def code(self) -> int:
        """The exit code that shells expect: 128 and the signal's number."""
        return 128 + self.signum


def invocation(num_processes: int = 1) -> list[str]:
    """The words that start this program: golf train, python train_gpt.py; of several processes by torchrun.

    From what Python was started with: `golf`, `python -m golf`, `python -m golf.lab` or a script.
    """
    path = Path(sys.argv[0])
    if path.name in ("golf", "golf.exe") or (path.name == "__main__.py" and path.parent.name == "golf"):
        script = ["golf", *sys.argv[1:2]] if num_processes == 1 else ["-m", "golf", *sys.argv[1:2]]
    elif path.name == "__main__.py":
        script = [*(["python"] if num_processes == 1 else []), "-m", f"golf.{path.parent.name}"]
    else:
        script = [*(["python"] if num_processes == 1 else []), path.name]
    return script if num_processes == 1 else ["torchrun", f"--nproc_per_node={num_processes}", *script]


def raise_stopped(signum: int, frame: FrameType | None) -> None:
    """Signal handler that raises Stopped."""
    raise Stopped(signum=signum)


@contextmanager
def handling_stops(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Calls `handler` for STOP_SIGNALS during the block, except for those that are ignored (nohup).

    In another thread than the main one, where Python takes no handlers, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [signum for signum in STOP_SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, handler) for signum in heard}
    try:
        yield
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier)


def escape_text(text: str) -> str:
    """A line in which what could steer a terminal, reorder the line or end it is shown as an escape."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\t\u200d" else repr(each)[1:-1] for each in text)


def escape_lines(text: str) -> str:
    """The same of each line of a text; its line ends stay."""
    return "\n".join(map(escape_text, text.split("\n")))


def run_program(
    name: str,
    work: Callable[[], int | None],
    codes: Mapping[type[Exception], int] | None = None,
    when_stopped: str = "stopped",
) -> int:
    """Calls `work` and returns its exit code, 0 for None.

    The exceptions in `codes` return their code; ValueError, OSError and a lack of memory return 2, Ctrl-C
    130, SIGTERM 143, SIGUSR1 128 and its number (138 on Linux); each prints one line to standard error. A
    closed output ends the program quietly with 141. Any other exception is a bug of the program and
    propagates.
    """
    codes = dict(codes or {})
    open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        # Consoles of a small alphabet show what they lack as an escape.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with handling_stops(raise_stopped):
            code = work() or 0
            sys.stdout.flush()
            return code
    except KeyboardInterrupt as stop:
        print(f"{name}: {escape_text(str(stop)) or when_stopped}", file=sys.stderr)
        return stop.code if isinstance(stop, Stopped) else STOPPED
    except BrokenPipeError:
        silence(sys.stdout)
        return BROKEN_PIPE
    except (*codes, ValueError, OSError, MemoryError, RecursionError) as error:
        print(f"{name}: {describe_error(error)}", file=sys.stderr)
        return next((code for kind, code in codes.items() if isinstance(error, kind)), BAD_INPUT)


def describe_error(error: BaseException) -> str:
    """One line for a user."""
    if isinstance(error, MemoryError):
        return f"out of memory ({str(error) or 'no more than that is known'})"
    if (
        isinstance(error, OSError)
        and error.errno == errno.ENOSPC
        and error.filename is None
        and error.args[1:]
    ):
        return "no space left on the disk that the output goes to"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return escape_text(f"{' and '.join(names)}: {error.strerror}")
    return escape_lines(str(error))


def open_missing_streams() -> None:
    """Puts the null device where the program was started with a standard stream closed (`>&-`).

    An open takes the lowest free descriptor: else the first file written would be descriptor 1.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def silence(stream: TextIO) -> None:
    """Sends what is still printed to a closed pipe nowhere."""
    with suppress(io.UnsupportedOperation), open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), stream.fileno())
