"""Runs a study: trains every arm with every seed, then writes a table, curves and a page.

    golf lab STUDY --data DIR
    golf lab STUDY --data DIR --search [--storage URL]

The report goes to docs/studies/STUDY in a clone, else to runs/lab/STUDY/report. The same command resumes an
interrupted study. Exit code 2 on bad input, 130 when stopped.
"""

import shlex
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from golf.checks import POSITIVE
from golf.data.manifest import open_dataset
from golf.lab.cluster import Cluster
from golf.lab.outcome import collect
from golf.lab.report import COLUMNS, cells, write_report
from golf.lab.search import require_optuna, search
from golf.lab.study import Study, load_study
from golf.lab.trial import cores, plan_trials, run_trials
from golf.system.cli import run_program
from golf.system.device import choose_runtime
from golf.system.lock import owned_folder
from golf.system.log import RunLog
from golf.system.options import read_options

LEAST = {**dict.fromkeys(("seeds", "jobs", "threads", "trials", "tokens"), 1), "minutes": POSITIVE}
"""The smallest values of the options."""


@dataclass(frozen=True)
class LabOptions:
    """The study, its data and its budget."""

    study: Annotated[str, tyro.conf.Positional]
    """The name of a study, one that ships or one under docs/studies, or a study file (.toml)."""
    data: Path
    """Dataset folder made by `golf prepare`."""
    seeds: int | None = None
    """Seeds of each arm; by default those of the study."""
    minutes: float | None = None
    """Minutes of training of each run, instead of the study's budget."""
    tokens: int | None = None
    """Training tokens of each run, instead of the study's budget."""
    jobs: int | None = None
    """Number of runs at the same time; by default one per CPU core, one on a GPU, all where they are jobs."""
    threads: int = 1
    """CPU threads of each run."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps (untested)."""
    out: Path = Path("runs") / "lab"
    """Folder for the runs; the same command resumes the runs that it finds there."""
    search: bool = False
    """Search over the fields of the study's [search] table (Optuna) instead of comparing arms."""
    trials: int = 27
    """Number of runs of the search, of all processes that share its storage."""
    storage: str | None = None
    """Where the search keeps its runs, for any number of processes and machines: a URL of Optuna's, such as
    postgresql://USER@HOST/NAME or sqlite:///FILE, or a journal file on a disk that all see (*.log)."""
    executor: Literal["local", "submitit"] = "local"
    """Where the runs of the arms go: processes of this machine, or jobs of a cluster, by submitit."""
    cluster: Literal["slurm", "local"] = "slurm"
    """What submitit submits to: SLURM, or this machine, to try it."""
    slurm: tuple[str, ...] = ()
    """Parameters of the jobs as submitit names them: timeout_min=240 gpus_per_node=1 slurm_partition=gpu."""


def study_of(options: LabOptions) -> Study:
    """The study with the options' seeds and budget; ValueError for options that contradict each other."""
    if options.minutes is not None and options.tokens is not None:
        raise ValueError("--minutes and --tokens are two budgets; give one of them")
    if options.storage is not None and not options.search:
        raise ValueError("--storage is where a search keeps its runs; give --search, too")
    if options.search and options.executor != "local":
        raise ValueError(
            "--executor is for the arms of a study; to share a search, start it in several jobs with one "
            "--storage"
        )
    if options.executor == "local" and (options.slurm or options.cluster != "slurm"):
        raise ValueError("--slurm and --cluster are of jobs; give --executor submitit, too")
    unread = ("seeds", "jobs", "threads") if options.search else ("trials",)
    for name in unread:
        if vars(options)[name] != vars(LabOptions)[name]:
            kind = "the arms of a study" if options.search else "a search; give --search, too"
            raise ValueError(f"--{name} is of {kind}")
    study = load_study(options.study, options.minutes, options.tokens, options.out)
    return study if options.seeds is None else Study(**{**vars(study), "seeds": options.seeds})


def run_study(study: Study, options: LabOptions, command: str, log: RunLog) -> None:
    """Runs the unfinished trials and writes the report; KeyboardInterrupt when stopped."""
    dataset = open_dataset(options.data)
    if options.search:
        choose_runtime(options.device)
        search(study, dataset, options.device, options.trials, options.out, log, options.storage)
        log.info(f"search: {study.folder / 'search.md'}")
        return
    trials = plan_trials(study, dataset, options.device, options.threads, options.out)
    if options.executor == "submitit":
        cluster = Cluster(options.cluster, options.out / study.name / "jobs", options.slurm)
        run_trials(trials, options.jobs or len(trials), log, cluster.start)
    else:
        device = choose_runtime(options.device).device.type
        jobs = options.jobs or (max(1, cores() // options.threads) if device == "cpu" else 1)
        run_trials(trials, jobs, log)
    outcomes = collect(study, trials)
    write_report(study, outcomes, command)
    rows = [
        cells(outcome)[:7] if outcome.scores else (outcome.arm.name, "failed", *[""] * 5)
        for outcome in outcomes
    ]
    log.table(study.title, COLUMNS[:7], rows)
    log.info(f"report: {study.folder / 'README.md'} and {study.folder / 'index.html'}")


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 on bad input, 130 when stopped."""

    def work() -> None:
        options = read_options(LabOptions, arguments, "golf lab", __doc__, least=LEAST)
        if options.search:
            require_optuna()
        command, study = shlex.join(["golf", "lab", *arguments]), study_of(options)
        # Processes that share a storage may share the folder, too: each run has one of its own there.
        with nullcontext() if options.storage else owned_folder(options.out / study.name):
            run_study(study, options, command, RunLog())

    return run_program("golf lab", work, when_stopped="stopped; the same command resumes")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
