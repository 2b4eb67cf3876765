"""Child processes that end with the process that started them."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from golf.system.device import end_with_parent, env_without_torchrun

GRACE_SECONDS = 10.0


def run_child(command: Sequence[str], folder: Path | None = None) -> int:
    """The exit code of a command run outside this torchrun group, in `folder`.

    However this call ends, the child has ended too; where this process is killed, Linux ends the child.
    """
    process = subprocess.Popen(command, cwd=folder, env=env_without_torchrun(), preexec_fn=end_with_parent())
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
