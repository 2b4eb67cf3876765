"""Runs of a study as jobs of a cluster (submitit): a job runs `python -m golf.lab.trial` as a process.

A job that SLURM preempts, or that reaches its time limit, stops its run, which saves, and is queued again:
the run goes on from its checkpoint.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from golf.lab.job import TrialJob
from golf.lab.study import StudyError
from golf.lab.trial import Trial, stop_signal_of

MINUTES = 240
"""Time limit of a job by default; one that reaches it is queued again."""


class SubmittedTrial:
    """A job with the methods of a process that `run_trials` uses."""

    def __init__(self, job: Any, trial: Trial):
        self.job, self.trial = job, trial
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The run's exit code, negative for one that has to be run again; None while the job is not done."""
        if self.returncode is None and self.job.done():
            error = self.job.exception()
            code = -1 if error else self.job.result()
            if error:
                with open(self.trial.folder / "output.txt", "a", encoding="utf-8") as output:
                    print(f"job {self.job.job_id}: {error}", file=output)
            self.returncode = -abs(stop_signal_of(code)) or code
        return self.returncode

    def stop(self, signum: int) -> None:
        """Cancels the job; a cluster sends SIGTERM to its processes."""
        self.job.cancel(check=False)

    def wait(self) -> None:
        """Waits for the end of the job."""
        self.job.wait()


class Cluster:
    """Submits trials; StudyError without submitit or the cluster, and for a parameter that it refuses."""

    def __init__(self, kind: Literal["slurm", "local"], folder: Path, parameters: tuple[str, ...]):
        if find_spec("submitit") is None:
            raise StudyError(
                'submitit is missing: pip install "parameter-golf-toolkit[slurm]", or leave out --executor'
            )
        import submitit  # pyright: ignore[reportMissingImports]

        named = read(parameters)
        try:
            self.executor = submitit.AutoExecutor(folder.resolve(), cluster=kind)
            self.executor.update_parameters(**{"name": "golf-lab", "timeout_min": MINUTES, **named})
        except RuntimeError as error:
            raise StudyError(
                f"--executor submitit: {error} Submit from a machine that has sbatch and srun, or try the "
                "study on this one by --cluster local"
            ) from error
        except (NameError, AssertionError, TypeError, ValueError) as error:
            says = " ".join(str(error).split())
            raise StudyError(f"--slurm {' '.join(parameters)}: {says}") from error

    def start(self, trial: Trial) -> SubmittedTrial:
        """Submits the job of a trial."""
        return SubmittedTrial(self.executor.submit(TrialJob(trial.folder.resolve())), trial)


def read(parameters: tuple[str, ...]) -> dict[str, int | float | str]:
    """KEY=VALUE texts as a dict, numbers as numbers; StudyError for a text without "="."""
    found: dict[str, int | float | str] = {}
    for text in parameters:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise StudyError(f"--slurm has {text!r}; expected KEY=VALUE, such as timeout_min=120")
        found[key] = value
        for kind in (float, int):
            try:
                found[key] = kind(value)
            except ValueError:
                continue
    return found
