"""Runs of a study as jobs of submitit, on this machine: it handles their signals as those of SLURM."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from lab_toys import STUDY, call, make_lab

from golf.lab.cluster import Cluster, read

STEPS = 100


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The tiny study with one arm."""
    lab = make_lab(tmp_path_factory.mktemp("lab"))
    head, _, _ = STUDY.partition("[[arms]]")
    (lab / "study" / "study.toml").write_text(f'{head}[[arms]]\nname = "base"\n')
    return lab


def children_of(pid):
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_run_is_a_job_and_one_that_is_preempted_saves_is_queued_again_and_goes_on(lab, monkeypatch):
    submitted = []
    submit = Cluster.start

    def note(cluster, trial):
        submitted.append(submit(cluster, trial))
        return submitted[-1]

    def preempt():
        """Sends the job's processes the signal of SLURM as soon as the run trains; it sends it to all."""
        (events,) = wait_for(lambda: list(lab.glob("runs/study/base_*/run.jsonl")))
        wait_for(lambda: '"step"' in events.read_text())
        for task in children_of(submitted[0].job.job_id):
            for process in (*children_of(task), task):
                os.kill(process, signal.SIGUSR2)

    monkeypatch.setattr(Cluster, "start", note)
    thread = threading.Thread(target=preempt)
    thread.start()
    jobs = ("--executor", "submitit", "--cluster", "local", "--slurm", "timeout_min=2", "name=tiny")
    assert call(lab, "--seeds", "1", "--tokens", str(64 * STEPS), *jobs) == 0
    thread.join()
    (row,) = json.loads((lab / "study" / "results.json").read_text())
    assert row["measured"][0]["train_tokens"] == 64 * STEPS
    (log,) = lab.glob("runs/study/base_*/run.log")
    assert log.read_text().count("resumed at step") == 1
    (said,) = lab.glob("runs/study/jobs/*_log.out")
    assert "Requeued job" in said.read_text()


def wait_for(condition):
    """What `condition` gives as soon as that is true."""
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], 'Could not detect "srun"'),
        (["--cluster", "local", "--slurm", "hours=3"], "hours"),
        (["--cluster", "local", "--slurm", "timeout_min=long"], "timeout_min"),
        (
            ["--cluster", "local", "--slurm", "timeout_min"],
            "golf lab: --slurm has 'timeout_min'; expected KEY=VALUE",
        ),
    ],
)
def test_a_cluster_that_is_absent_and_parameters_that_it_refuses_are_one_line(lab, options, says, capsys):
    assert call(lab, "--executor", "submitit", *options) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_without_submitit_the_line_names_the_extra(lab, monkeypatch, capsys):
    monkeypatch.setattr("golf.lab.cluster.find_spec", lambda name: None)
    assert call(lab, "--executor", "submitit") == 2
    assert 'pip install "parameter-golf-toolkit[slurm]"' in capsys.readouterr().err


def test_parameters_are_numbers_where_they_can_be():
    assert read(("timeout_min=60", "mem_gb=1.5", "slurm_partition=gpu", "slurm_time=1:30:00")) == {
        "timeout_min": 60, "mem_gb": 1.5, "slurm_partition": "gpu", "slurm_time": "1:30:00",
    }  # fmt: skip
