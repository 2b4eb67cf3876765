"""Child processes that end with the process that started them."""

import signal
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from golf.system.device import end_with_parent, env_without_torchrun

GRACE_SECONDS = 10.0


def leave_interrupts_to(parent_death: Callable[[], None] | None) -> None:
    """In a child before its program: Ctrl-C, which a terminal sends to it too, is its parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent_death is not None:
        parent_death()


def run_child(command: Sequence[str], folder: Path | None = None) -> int:
    """The exit code of a command run outside this torchrun group, in `folder`.

    However this call ends, the child has ended too; where this process is killed, Linux ends the child. At
    Ctrl-C it gets a SIGTERM from here, and so prints no traceback of what it was importing.
    """
    before = partial(leave_interrupts_to, end_with_parent())
    process = subprocess.Popen(command, cwd=folder, env=env_without_torchrun(), preexec_fn=before)
    try:
        return process.wait()
    except BaseException:
        # Asked first: torchrun ends its own processes when it is asked, and cannot when it is killed.
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
