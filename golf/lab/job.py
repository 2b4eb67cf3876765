"""A run of a study as a process, and as what a job of a cluster calls; only that process imports torch."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any


class TrialProcess(subprocess.Popen[bytes]):
    """A trial that runs as a process of this machine."""

    def stop(self, signum: int) -> None:
        """Terminates it, unless the terminal has sent it the same Ctrl-C."""
        if signum != signal.SIGINT:
            self.terminate()


def start_trial(folder: Path) -> TrialProcess:
    """Starts the trial in a folder as a process."""
    command = [sys.executable, "-m", "golf.lab.trial", str(folder)]
    with open(folder / "output.txt", "ab") as output:
        return TrialProcess(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, preexec_fn=ignore_submitit
        )


def ignore_submitit() -> None:
    """Ignores submitit's signal, which SLURM sends to all processes of a job: the job passes on another."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


class TrialJob:
    """What a job runs: submitit pickles it and calls it there, and `checkpoint` before the job is ended."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """The exit code of the run."""
        self.process = start_trial(self.folder)
        try:
            return self.process.wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Asks the run to save and waits for its end."""
        if self.process is not None:
            self.process.terminate()
            # Not Popen.wait: a handler of signals may have interrupted that, which holds its lock meanwhile.
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)

    def checkpoint(self) -> Any:
        """The same run again, for the job that follows this one."""
        from submitit.helpers import DelayedSubmission  # pyright: ignore[reportMissingImports]

        self.stop()
        return DelayedSubmission(TrialJob(self.folder))
