"""The processes of `benchmarks.gpu`: which starts when, what becomes of each, and what is written of it."""

import json
import shutil
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu_jobs import POLL_SECONDS, Job, Post, TimingLock, read_results
from benchmarks.gpu_plan import ARCHIVE_SECONDS, LATE_ROWS, Choice, Plan
from benchmarks.gpu_report import archive, write_report
from benchmarks.gpu_run import RunWatch, find_entry, junit_figures
from golf.entry.results import read_json, read_scores

RUN_MARGIN_SECONDS = 15.0
"""Between the end that a run plans with and its limit."""
FIRST_ROW = "speed.frontier-2048-auto"
"""The row that a run waits for: its own kind of step, compiled once for both."""


@dataclass(frozen=True)
class Verdict:
    """Of a job that has not started: whether it may, must wait, or never will."""

    status: str
    """start, wait, or what it ends as."""
    reason: str = ""


UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What a file of another program raises that is not as it was when this was written."""
START, WAIT = Verdict("start"), Verdict("wait")


class Session:
    """One call of the command."""

    def __init__(self, plan: Plan, choice: Choice, begun: float):
        self.plan, self.choice, self.work = plan, choice, plan.work
        self.end = begun + 60.0 * plan.options.minutes
        """By the monotonic clock."""
        self.lock = TimingLock(self.work)
        self.watches: dict[str, RunWatch] = {}
        self.jobs = [job for job in plan.jobs() if choice.takes(job.name)]
        self._skip_what_is_done()

    def left(self) -> float:
        """Seconds until the archive must be made."""
        return self.end - ARCHIVE_SECONDS[self.plan.machine.kind] - time.monotonic()

    def run(self) -> None:
        """Starts and ends all jobs, then puts together what is carried home."""
        for line in self.plan.describe(self.jobs):
            print(line, flush=True)
        last = time.monotonic()
        try:
            while any(not job.ended for job in self.jobs) and self.left() > 0:
                self._start_what_can()
                time.sleep(POLL_SECONDS)
                now = time.monotonic()
                for job in [job for job in self.jobs if job.status == "running"]:
                    job.look(self.work, now - last)
                    self._follow(job, now - last)
                last = now
        finally:
            for job in self.jobs:
                if not job.ended:
                    over = (
                        f"the {self.plan.options.minutes:g} minutes are over"
                        if self.left() <= 0
                        else "stopped"
                    )
                    how_far = f"after {job.worked:.0f} s" if job.process else "not started"
                    job.stop("out of time", f"{over}, {how_far}")
                    self._close(job)
        self._write_home()

    def _skip_what_is_done(self) -> None:
        for line in read_results(self.plan.results):
            job = self._job(line["job"])
            if job is not None and line["event"] == "end":
                ended = line["status"] in ("done", "skipped")
                job.status, job.reason = (line["status"], line["reason"]) if ended else ("waiting", "")

    def _job(self, name: str) -> Job | None:
        return next((job for job in self.jobs if job.name == name), None)

    def _has_ended(self, name: str) -> bool:
        """Also where it is not planned."""
        job = self._job(name)
        return job is None or job.ended

    def _verdict(self, job: Job) -> Verdict:
        if not all(self._has_ended(name) for name in job.after):
            return WAIT
        run = next(
            (other for other in self.jobs if other.stage in ("run", "fallback") and not other.ended), None
        )
        if job.stage in ("run", "fallback"):
            timed = self._has_ended(FIRST_ROW) or self._has_figures(FIRST_ROW)
            if not self._has_ended("data") or not timed:
                return WAIT
            has_data = (self.plan.data / "manifest.json").is_file()
            return START if has_data else Verdict("failed", f"there is no dataset at {self.plan.data}")
        if job.stage == "score":
            if run is not None:
                return WAIT
            has_artifact = self.plan.artifact.is_file()
            return START if has_artifact else Verdict("skipped", "there is no artifact to score")
        if job.stage == "tests" and find_spec("pytest") is None:
            return Verdict("skipped", "pytest is not installed")
        if job.name in LATE_ROWS and run is not None:
            watch = self.watches.get(run.name)
            # Training is timed from its first step to its last: what can wait does.
            return START if watch is not None and watch.has_trained else WAIT
        return START

    def _has_figures(self, name: str) -> bool:
        return any(
            line["job"] == name and line["event"] == "figures" for line in read_results(self.plan.results)
        )

    def _memory_in_use(self) -> float:
        """The share of the memory that is taken, that of the next job to get the lock included."""
        running = [job for job in self.jobs if job.status == "running"]
        waiting = [job for job in running if job.is_waiting(self.work)]
        next_one = max((job.memory for job in waiting), default=0.0)
        return sum(job.memory for job in running if job not in waiting) + next_one

    def _start_what_can(self) -> None:
        for job in [job for job in self.jobs if job.status == "waiting"]:
            verdict = self._verdict(job)
            if verdict.status not in ("start", "wait"):
                job.status, job.reason = verdict.status, verdict.reason
                self._close(job)
            elif verdict is START and self._has_room(job) and (not job.exclusive or self.lock.take(job.name)):
                job.limit = min(job.limit, self.left())
                if job.stage in ("run", "fallback"):
                    self._bound_run(job)
                    folder = self.plan.run_folder(job.name)
                    self.watches[job.name] = RunWatch(folder, self.plan.post, job.name)
                job.start(self.work)
                self._say(job, "start", limit_seconds=round(job.limit, 1), command=job.command)

    def _bound_run(self, job: Job) -> None:
        """Has a new run plan with the time that is left, so that its audit and its entry come in time."""
        minutes = (job.limit - RUN_MARGIN_SECONDS) / 60
        if "--resume" not in job.command and minutes > self.plan.run_minutes:
            job.command += ["--total-minutes", f"{minutes:.3f}"]

    def _has_room(self, job: Job) -> bool:
        # A run reads data and flattens its script first; until it warms up, one of the rows has ended.
        if self.plan.on_card and job.stage == "run":
            return True
        return not job.memory or self._memory_in_use() + job.memory <= 1.0

    def _follow(self, job: Job, seconds: float) -> None:
        """What a job that runs, or has just ended, asks of the others."""
        watch = self.watches.get(job.name)
        if watch is not None and not job.ended:
            self._look(watch)
            if not watch.wants_card:
                self.lock.release(job.name)
            elif not self.lock.take(job.name):
                watch.shared_seconds += seconds
        if job.ended:
            self._close(job)

    def _look(self, watch: RunWatch) -> None:
        try:
            watch.look()
        except UNREADABLE as error:
            watch.post.add("unreadable", error=repr(error))

    def _close(self, job: Job) -> None:
        """Writes of a job that has ended; lets others have what it had; puts a fallback on the list."""
        self.lock.release(job.name)
        if job.process is not None:
            self._add_figures(job)
        self._say(job, "end", status=job.status, reason=job.reason, worked_seconds=round(job.worked, 1))
        print(f"{job.name}: {job.status}{', ' * bool(job.reason)}{job.reason}", flush=True)
        watch = self.watches.get(job.name)
        if watch is not None and not watch.is_packed and self.left() > 0 and self.choice.takes("fallback"):
            tried = sum(other.stage == "fallback" for other in self.jobs)
            another = self.plan.fallback_job(tried)
            if another is not None:
                self.jobs.append(another)
        self._write_home()

    def _add_figures(self, job: Job) -> None:
        """The figures that a job leaves in files of its own."""
        post = replace(self.plan.post, job=job.name)
        try:
            self._read_figures(job, post)
        except UNREADABLE as error:
            post.add("unreadable", error=repr(error))

    def _read_figures(self, job: Job, post: Post) -> None:
        if job.stage == "tests" and self.plan.on_card:
            post.add("figures", **junit_figures(self.plan.junit))
        if job.stage == "score" and self.plan.score_file(job.name).is_file():
            read = proof_figures if job.name == "score.prove" else score_figures
            post.add("figures", **read(self.plan.score_file(job.name)))
        if job.stage == "data" and (self.plan.data / "manifest.json").is_file():
            post.add("figures", **data_figures(self.plan.data / "manifest.json"))
        watch = self.watches.get(job.name)
        if watch is not None:
            if watch.is_packed:
                shutil.copyfile(watch.folder / "artifact.bin", self.plan.artifact)
            watch.close(find_entry(self.work / "records"))

    def _say(self, job: Job, event: str, **fields: object) -> None:
        replace(self.plan.post, job=job.name).add(event, **fields)

    def _write_home(self) -> None:
        """Report and archive as they stand; a fault there must not end what still runs."""
        try:
            self._write_files()
        except UNREADABLE as error:
            print(f"report or archive cannot be written: {error!r}", flush=True)

    def _write_files(self) -> None:
        lines = read_results(self.plan.results)
        title = f"benchmarks.gpu on {self.plan.machine.hardware}"
        write_report(self.plan.out / "report.md", title, self.jobs, lines)
        if self.choice.takes("archive"):
            names = ("run", "fallback.flash", "fallback.eager")
            runs = [self.plan.run_folder(name) for name in names if self.plan.run_folder(name).is_dir()]
            entry = find_entry(self.work / "records")
            profile = f"profile_{FIRST_ROW.partition('.')[2]}.txt"
            for line in archive(self.plan.out, self.work, runs, entry, profile):
                print(line, flush=True)


def proof_figures(path: Path) -> dict[str, object]:
    """Bytes and seconds of the first proof in a file."""
    (proof, *_), *_ = read_json(path)["proofs"].values()
    names = ("documents", "coded_bytes", "score_bytes", "isolation", "encode_seconds", "decode_seconds")
    return {**{name: proof[name] for name in names}, "holds": not proof["violations"]}


def score_figures(path: Path) -> dict[str, object]:
    """Bits per byte and tokens a second of a score, by the names that its file has."""
    scores = read_scores(path)
    figures: dict[str, object] = {"partial": scores.partial, "command_seconds": scores.seconds}
    for stage in scores.stages:
        prefix = "ttt_" if stage.name == "test_time_trained" else ""
        figures |= {
            f"{prefix}val_bpb": stage.tally.bits_per_byte,
            f"{prefix}windows": [stage.windows, stage.context, stage.stride],
            f"{prefix}score_seconds": stage.seconds,
            f"{prefix}tokens_scored": stage.tally.num_tokens,
            f"{prefix}tokens_per_second": stage.tally.num_tokens / (stage.seconds or 1.0),
        }
    return figures


def data_figures(path: Path) -> dict[str, object]:
    """Tokens and bytes of a dataset, by its manifest."""
    found = json.loads(path.read_text(encoding="utf-8"))
    names = ("vocab_size", "train_text_bytes", "val_text_bytes", "repeated_documents", "notes")
    tokens = {
        f"{split}_tokens": sum(file["num_tokens"] for file in found["files"] if file["split"] == split)
        for split in ("train", "val")
    }
    return {**tokens, **{name: found[name] for name in names if name in found}}
