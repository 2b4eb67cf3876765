"""Searches: successive halving, two processes on one storage, runs of processes that died, bad storages."""

import json
import math
import multiprocessing
import socket
import sqlite3
import sys

import optuna
import pytest
from lab_toys import call, lab_arguments, make_lab

from golf.lab import search as searching
from golf.lab.__main__ import main
from golf.system.lock import owned_folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return make_lab(tmp_path_factory.mktemp("lab"))


def test_searching_without_optuna_says_what_to_install(lab, monkeypatch, capsys):
    monkeypatch.setattr("golf.lab.search.find_spec", lambda name: None)
    assert call(lab, "--search") == 2
    assert 'pip install "parameter-golf-toolkit[lab]"' in capsys.readouterr().err


def test_a_search_halves_on_held_out_text_and_never_opens_the_validation_text(lab, monkeypatch):
    monkeypatch.setattr(
        "golf.data.manifest.Dataset.validation_tokens", lambda *_: pytest.fail("validation text was opened")
    )
    for trials in ("2", "4"):
        assert call(lab, "--search", "--trials", trials) == 0
    found = json.loads((lab / "study" / "search.json").read_text())
    assert 1 <= len(found) <= 4
    assert set(found[0]["chosen"]) == {"model.qk_gain", "model.norm"}
    assert [row["held_out_bpb"] for row in found] == sorted(row["held_out_bpb"] for row in found)
    assert "the validation text was not opened" in (lab / "study" / "search.md").read_text()


def states(storage):
    """The runs of a storage: number and state."""
    (study,) = optuna.get_all_study_summaries(storage)
    return [
        (t.number, t.state.name)
        for t in optuna.load_study(study_name=study.study_name, storage=storage).trials
    ]


def search_into(path, barrier, *arguments):
    """What a process does: the program, its output in a file; its first run waits for that of the other."""
    sys.stdout = sys.stderr = path.open("w")
    train, waits = searching.train_trial, [barrier.wait]

    def train_beside_the_other(*rest):
        if waits:
            waits.pop()(60)
        return train(*rest)

    searching.train_trial = train_beside_the_other
    sys.exit(main([*arguments]))


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_two_processes_on_one_storage_make_the_runs_that_were_asked_for_together(lab, tmp_path, kind):
    storage = {"journal": str(tmp_path / "search.log"), "sqlite": f"sqlite:///{tmp_path}/shared.db"}[kind]
    arguments = lab_arguments(lab, "--search", "--trials", "6", "--storage", storage, "--out", str(tmp_path))
    outputs = [tmp_path / "first.txt", tmp_path / "second.txt"]
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(2)
    both = [fork.Process(target=search_into, args=(output, barrier, *arguments)) for output in outputs]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    said = [output.read_text() for output in outputs]
    assert [process.exitcode for process in both] == [0, 0], said
    opened = searching.open_storage(storage)
    found = states(opened)
    made = [number for number, state in found if state in ("COMPLETE", "PRUNED")]
    # Two processes may begin the last run at the same moment: the later one is not made.
    assert len(made) == 6 and [state for number, state in found if number not in made] in ([], ["FAIL"])
    begun = [path.name.split("_")[0] for path in tmp_path.glob("study/search/trial*")]
    assert sorted(begun) == sorted(f"trial{number}" for number in made), "a run was made twice, or not at all"
    trials = optuna.load_study(study_name="study", storage=opened).trials
    drawn = {json.dumps(trial.params) for trial in trials if trial.params}
    assert len(drawn) == 6, "two processes drew the same values"


def dead_run(storage, folder, host):
    """A run that its process began and did not end."""
    study = optuna.create_study(
        study_name="study", storage=searching.open_storage(storage), load_if_exists=True
    )
    trial = study.ask()
    trial.set_user_attr("folder", str(folder))
    trial.set_user_attr("host", host)


def test_the_run_of_a_process_that_died_here_is_made_again_and_those_of_living_ones_are_not(
    lab, tmp_path, capsys
):
    storage = str(tmp_path / "search.log")
    (tmp_path / "dead").mkdir()
    dead_run(storage, tmp_path / "dead", socket.gethostname())
    dead_run(storage, tmp_path / "elsewhere", "another machine")
    dead_run(storage, tmp_path / "alive", socket.gethostname())
    with owned_folder(tmp_path / "alive"):
        assert call(lab, "--search", "--trials", "3", "--storage", storage) == 0
        assert dict(states(searching.open_storage(storage))).pop(3) in ("COMPLETE", "PRUNED")
        assert states(searching.open_storage(storage))[:3] == [(0, "FAIL"), (1, "RUNNING"), (2, "RUNNING")]
    assert "other processes are at work on 2 runs" in capsys.readouterr().out


def test_of_runs_that_begin_at_the_same_moment_one_too_many_is_not_made(lab, tmp_path, monkeypatch):
    storage, counted = str(tmp_path / "search.log"), searching.Searching.counted

    def counted_before_another_began(self, before=math.inf):
        found = counted(self, before)
        if before == math.inf and found == 1:
            self.found.ask()
        return found

    monkeypatch.setattr(searching.Searching, "counted", counted_before_another_began)
    assert call(lab, "--search", "--trials", "2", "--storage", storage) == 0
    assert [state for _, state in states(searching.open_storage(storage))][1:] == ["RUNNING", "FAIL"]


def test_a_run_that_others_took_for_dead_is_dropped_and_made_again(lab, tmp_path, monkeypatch, capsys):
    storage, train = str(tmp_path / "search.log"), searching.train_trial

    def suspended(folder, *rest):
        found = train(folder, *rest)
        if folder.name.startswith("trial0"):
            other = optuna.load_study(study_name="study", storage=searching.open_storage(storage))
            other.tell(0, state=optuna.trial.TrialState.FAIL)
        return found

    monkeypatch.setattr(searching, "train_trial", suspended)
    assert call(lab, "--search", "--trials", "1", "--storage", storage) == 0
    assert [state for _, state in states(searching.open_storage(storage))] == ["FAIL", "COMPLETE"]
    assert "another process has taken this run for dead" in capsys.readouterr().out


def test_a_storage_that_is_locked_is_named_with_what_to_do(lab, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(searching, "LOCKED_SECONDS", 0.1)
    path = tmp_path / "locked.db"
    searching.open_storage(f"sqlite:///{path}")
    with sqlite3.connect(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert call(lab, "--search", "--trials", "1", "--storage", f"sqlite:///{path}") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{path} cannot be used (database is locked)" in err
    assert "end the process that has it open" in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--search", "--storage", "search.txt"], "--storage is 'search.txt'; expected a URL"),
        (["--search", "--storage", "nowhere://host/name"], "the storage nowhere://host/name cannot be used"),
        (["--search", "--storage", "postgresql://u:secret@127.0.0.1:1/name"], "postgresql://"),
        (["--search", "--storage", "/proc/no/search.log"], "/proc/no"),
        (["--storage", "search.log"], "give --search, too"),
        (["--search", "--executor", "submitit"], "start it in several jobs"),
        (["--search", "--jobs", "2"], "--jobs is of the arms of a study"),
        (["--trials", "5"], "--trials is of a search; give --search, too"),
        (["--slurm", "timeout_min=3"], "give --executor submitit, too"),
    ],
)
def test_a_storage_or_an_executor_that_cannot_be_used_is_one_line(
    lab, options, says, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert call(lab, *options) == 2
    err = capsys.readouterr().err
    assert says in err and "secret" not in err and err.count("\n") == 1
