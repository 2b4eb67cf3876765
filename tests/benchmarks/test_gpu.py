"""The command for a rented card: a dry run of all of it; stages that fail, hang or wait."""

import itertools
import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import main
from benchmarks.gpu_jobs import SKIPPED, Job, Post, read_results, try_lock
from benchmarks.gpu_plan import STAGES, Choice, GpuBenchmark, Machine, Plan
from benchmarks.gpu_session import Session

HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"], start_new_session=True)
open(sys.argv[1], "w").write(f"{child.pid}")
time.sleep(60)
"""
TIMED = """
import sys, time
from pathlib import Path
from benchmarks.gpu_jobs import Post
post = Post(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], 0.0, "stub")
with post.timed():
    begun = time.monotonic()
    time.sleep(0.4)
    post.add("figures", begun=begun, over=time.monotonic())
"""
RUN = """
import json, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
folder.mkdir()
time.sleep(0.3)
(folder / "run.jsonl").write_text(json.dumps({"event": "attention", "kernels": ["flash"]}) + chr(10))
time.sleep(0.6)
begun = time.monotonic()
time.sleep(1.0)
numbers = "model_parameters train_tokens tokens_per_second final_progress epochs micro_batch_tokens".split()
training = {"steps": 3, "attention": ["math"], "seconds": {"train": 1.0}}
(folder / "training.json").write_text(json.dumps(training | dict.fromkeys(numbers, 1)))
(folder / "over.json").write_text(json.dumps([begun, time.monotonic()]))
time.sleep(1.2)
(folder / "artifact.bin").write_bytes(b"artifact")
"""


class StubPlan(Plan):
    """Jobs of one's own in place of the real ones."""

    def __init__(self, out: Path, minutes: float = 1.0, kind: str = "cuda"):
        options = GpuBenchmark(out=out, work=out / "work", minutes=minutes)
        super().__init__(options, Machine(kind, "stub", 85 * 10**9), time.time())
        for folder in ("logs", "state"):
            (self.work / folder).mkdir(parents=True, exist_ok=True)
        self.stubs: list[Job] = []
        self.fallbacks: list[Job] = []
        self.data.mkdir(exist_ok=True)
        (self.data / "manifest.json").write_text('{"files": []}')

    def jobs(self) -> list[Job]:
        return self.stubs

    def fallback_job(self, number: int) -> Job | None:
        return self.fallbacks[number] if number < len(self.fallbacks) else None

    def add(self, name: str, code: str, *arguments: object, limit: float = 30.0, **how: object) -> Job:
        command = [sys.executable, "-S", "-c", code, *map(str, arguments)]
        self.stubs.append(Job(name, command, limit, **how))
        return self.stubs[-1]

    def add_timed(self, name: str) -> Job:
        return self.add(name, TIMED, self.work, self.results, name, memory=0.4)


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is not asked what it has: that starts a process which imports torch."""
    monkeypatch.setattr("benchmarks.gpu.find_machine", lambda device: Machine("cpu", "stub", 0))


def run(plan: StubPlan, *only: str) -> dict[str, tuple[str, str]]:
    """How each job ended, by what the file of results says."""
    Session(plan, Choice(only), time.monotonic()).run()
    lines = read_results(plan.results)
    return {line["job"]: (line["status"], line["reason"]) for line in lines if line["event"] == "end"}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_the_dry_run_goes_through_every_stage_and_ends_in_an_entry(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = main(["--device", "cpu", "--minutes", "4", "--out", str(out), "--work", str(tmp_path / "work")])
    assert code == 0
    lines = read_results(out / "results.jsonl")
    ends = {line["job"]: (line["status"], line["reason"]) for line in lines if line["event"] == "end"}
    unfinished = {job: end for job, end in ends.items() if end[0] != "done"}
    assert set(unfinished) == {"speed.frontier-2048-fa3"}, ends
    assert unfinished["speed.frontier-2048-fa3"][0] == "skipped"
    assert {job.split(".")[0] for job in ends} == set(STAGES) - {"fallback", "archive"}
    figures = {(line["job"], line["event"]): line for line in lines}
    assert figures["speed.frontier-2048-auto", "figures"]["tokens_per_second"] > 0
    assert figures["environment", "attention"]["flash_error"]["output"] < 0.02
    assert figures["environment", "noise"]["flash"]["loss_difference"] == 0.0
    real = figures["run", "figures"]
    assert real["entry"].endswith("gpu-first-light") and 1 < real["stages"]["quantized"]["val_bpb"] < 8
    assert figures["packing", "trellis of 8 states"]["round_seconds"] > 0
    assert figures["score.ttt", "figures"]["ttt_tokens_per_second"] > 0
    assert figures["score.stream", "figures"]["ttt_tokens_per_second"] > 0
    assert figures["score.prove", "figures"]["holds"] is True
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "| run | done |" in report and "| frontier, T 128 |" in report
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("results.jsonl", "report.md", "logs.tar.gz", "entry.tar.gz", "artifact.bin", "junit.xml"),
        "profile_frontier-2048-auto.txt",
    }


def test_a_stage_that_fails_or_has_nothing_to_do_stops_no_other(tmp_path: Path) -> None:
    plan = StubPlan(tmp_path)
    plan.add("environment", "print('on the way'); raise SystemExit('no compiler here')")
    plan.add("data", f"print('not on this machine'); raise SystemExit({SKIPPED})")
    plan.add("speed.a", "pass")
    assert run(plan) == {
        "environment": ("failed", "no compiler here"),
        "data": ("skipped", "not on this machine"),
        "speed.a": ("done", ""),
    }
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| environment | failed |" in report and "no compiler here" in report
    assert "| speed.a | done |" in report


def test_a_stage_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    plan = StubPlan(tmp_path)
    job = plan.add("speed.hangs", HANGS, tmp_path / "child", limit=1.5)
    plan.add("speed.works", "pass")
    ends = run(plan)
    assert ends["speed.hangs"][0] == "out of time" and ends["speed.works"] == ("done", "")
    assert job.process is not None and job.process.returncode is not None
    assert not is_alive(int((tmp_path / "child").read_text()))


def test_what_is_going_on_when_the_minutes_are_over_is_ended(tmp_path: Path) -> None:
    plan = StubPlan(tmp_path, minutes=5 / 60, kind="cpu")
    plan.add("speed.hangs", HANGS, tmp_path / "child", memory=1.0)
    plan.add("speed.later", "pass", memory=1.0)
    ends = run(plan)
    assert {status for status, _ in ends.values()} == {"out of time"}
    assert ends["speed.later"][1].endswith("not started")
    assert not is_alive(int((tmp_path / "child").read_text()))


def test_going_on_runs_what_has_not_finished_and_nothing_else(tmp_path: Path) -> None:
    for turn in range(2):
        plan = StubPlan(tmp_path)
        count = "open(sys.argv[1], 'a').write('x')"
        plan.add("data", f"import sys; {count}", tmp_path / "data.txt")
        plan.add("speed.a", f"import sys; {count}; sys.exit({1 - turn})", tmp_path / "speed.txt")
        run(plan)
    assert (tmp_path / "data.txt").read_text() == "x"
    assert (tmp_path / "speed.txt").read_text() == "xx"
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| data | done |" in report and "| speed.a | done |" in report


def test_nothing_else_is_timed_while_a_run_trains(tmp_path: Path) -> None:
    plan = StubPlan(tmp_path)
    for name in ("speed.frontier-2048-auto", "speed.b", "speed.c"):
        plan.add_timed(name)
    plan.add("run", RUN, plan.run_folder("run"), memory=0.4)
    plan.add_timed("speed.seed-1024-flash")
    plan.add("score.plain", "pass", exclusive=True, after=("speed.seed-1024-flash",))
    ends = run(plan)
    assert {status for status, _ in ends.values()} == {"done"}, ends
    lines = read_results(plan.results)
    timed = [(line["begun"], line["over"]) for line in lines if "begun" in line]
    begun, over = json.loads((plan.run_folder("run") / "over.json").read_text())
    spans = sorted([*timed, (begun, over)])
    assert len(spans) == 5 and all(a[1] <= b[0] for a, b in itertools.pairwise(spans)), spans
    starts = {line["job"]: line["seconds"] for line in lines if line["event"] == "start"}
    trained = next(line for line in lines if line["job"] == "run" and line["event"] == "figures")
    assert trained["steps"] == 3 and trained["phase_seconds"] == {"train": 1.0}
    assert starts["run"] + 1.5 < starts["speed.seed-1024-flash"] < starts["score.plain"]
    assert (tmp_path / "artifact.bin").read_bytes() == b"artifact"


def test_a_run_without_an_artifact_is_tried_again_in_other_ways(tmp_path: Path) -> None:
    plan = StubPlan(tmp_path)
    plan.add("run", "raise SystemExit('no kernel')")
    for name in ("fallback.flash", "fallback.eager", "fallback.never"):
        folder = plan.run_folder(name)
        works = "import sys; from pathlib import Path; p = Path(sys.argv[1]); p.mkdir(); "
        works += "(p / 'artifact.bin').write_bytes(b'x')"
        code = works if name != "fallback.flash" else "raise SystemExit('no kernel either')"
        plan.fallbacks.append(plan.add(name, code, folder))
        plan.stubs.pop()
    ends = run(plan)
    assert [status for status, _ in ends.values()] == ["failed", "failed", "done"]
    assert list(ends) == ["run", "fallback.flash", "fallback.eager"]


def test_without_data_a_run_is_not_even_tried(tmp_path: Path) -> None:
    plan = StubPlan(tmp_path)
    (plan.data / "manifest.json").unlink()
    plan.add("run", "pass")
    status, reason = run(plan)["run"]
    assert status == "failed" and reason.startswith("there is no dataset at ")


def test_figures_are_one_line_each_whatever_they_hold(tmp_path: Path) -> None:
    post = Post(tmp_path, tmp_path / "results.jsonl", "speed.a", time.time(), "stub")
    post.add("figures", loss=float("nan"), path=tmp_path, shape=(2, 3), text="a\nb")
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('no JSON\n{"cut short by a ki')
    line, other = read_results(tmp_path / "results.jsonl")
    assert other["event"] == "unreadable" and other["text"] == "no JSON"
    assert (line["loss"], line["shape"], line["stage"], line["text"]) == ("nan", [2, 3], "speed", "a\nb")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--out", "{folder}/new", "--only", "sped"],
            "--only: no stage is called 'sped'; there are environment",
        ),
        (["--out", "{folder}/file/below"], "Not a directory"),
        (["--out", "{folder}/old"], "holds results already; go on with --resume"),
        (["--resume", "{folder}/new"], "holds no results to go on with"),
        (["--resume", "{folder}/old", "--device", "cpu"], "--resume takes --device from the first call"),
        (["--minutes", "3"], "--out DIR is missing"),
        (["--out", "{folder}/new", "--minutes", "0"], "--minutes is 0.0; expected a number above 0"),
        (["--out", "{folder}/new", "--text", "{folder}/file"], "--text needs the --tokenizer"),
        (["--out", "{folder}/new", "--text", "{folder}/none.txt"], "none.txt is not there"),
    ],
)
def test_bad_input_ends_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    no_card: None,
) -> None:
    (tmp_path / "file").touch()
    plan = StubPlan(tmp_path / "old")
    plan.post.add("plan", options={})
    assert main([text.format(folder=tmp_path) for text in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_two_calls_in_one_folder_at_once_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_card: None
) -> None:
    options = {"out": str(tmp_path), "work": str(tmp_path / "work"), "minutes": 1.0}
    plan = StubPlan(tmp_path)
    defaults = {**vars(GpuBenchmark()), **options, "text": [], "val_shard": []}
    plan.post.add("plan", options=defaults)
    with open(plan.results, "a") as other:
        assert try_lock(other.fileno())
        assert main(["--resume", str(tmp_path)]) == 2
    assert f"another call is at work in {tmp_path}" in capsys.readouterr().err


def test_what_is_at_work_together_fits_the_cards_memory(tmp_path: Path) -> None:
    card = Machine("cuda", "stub", 85 * 10**9)
    assert (
        2 * card.memory("frontier") <= 1 < card.memory("run") + card.memory("frontier") + card.memory("seed")
    )
    assert Machine("cuda", "stub", 24 * 10**9).memory("frontier") == 1.0
    plan = StubPlan(tmp_path)
    for name in ("speed.a", "speed.b", "speed.c"):
        plan.add(name, "import time; time.sleep(0.5)", memory=card.memory("frontier"))
    run(plan)
    lines = read_results(plan.results)
    at = {(line["job"], line["event"]): line["seconds"] for line in lines}
    assert at["speed.b", "start"] < at["speed.a", "end"]
    assert at["speed.c", "start"] >= min(at["speed.a", "end"], at["speed.b", "end"])


def test_stages_and_rows_are_chosen_by_name() -> None:
    names = (
        "environment",
        "speed.seed-1024-auto",
        "speed.seed-1024-flash",
        "run",
        "fallback.flash",
        "archive",
    )

    def taken(only: tuple[str, ...] = (), skip: tuple[str, ...] = ()) -> list[str]:
        return [name for name in names if Choice(only, skip).takes(name)]

    assert taken() == list(names)
    assert taken(("speed", "run")) == ["speed.seed-1024-auto", "speed.seed-1024-flash", "run", "archive"]
    assert taken(("speed.seed-1024-flash",)) == ["speed.seed-1024-flash", "archive"]
    assert taken(skip=("speed.seed-1024-auto", "fallback", "archive")) == [names[0], names[2], names[3]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["--device", "cuda", "--out", str(tmp_path / "out")]) == 2
    assert "cuda" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--minutes", "--run-minutes"])
@pytest.mark.parametrize("value", ["nan", "0", "-1", "inf"])
def test_minutes_that_are_none_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture, option: str, value: str
) -> None:
    assert main(["--device", "cpu", "--out", str(tmp_path / "out"), option, value]) == 2
    assert f"{option} is" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
