"""What the processes of `benchmarks.gpu` share: the file of results, the lock of timed work, process groups.

Imported by the parent and by every stage's process; it loads neither torch nor numpy.
"""

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""The repository: where the processes of `python -m benchmarks...` start."""
SKIPPED = 77
"""Exit code of a stage that has nothing to do on this machine; the last line of its log says why."""
POLL_SECONDS = 0.1
GRACE_SECONDS = 2.0
"""Between asking a process group to end and killing it."""


@dataclass(frozen=True)
class Post:
    """Where a stage's process writes its figures, and what each line of them says beside."""

    work: Path
    """Folder for everything that is not a result."""
    results: Path
    """The file of results, one JSON object a line."""
    job: str
    """Name of the process, STAGE or STAGE.PART."""
    started: float
    """Seconds since the epoch at which the whole command began."""
    hardware: str
    """Name of the card or the processor."""

    def add(self, event: str, **figures: Any) -> None:
        """Appends one line and waits until it is on the disk."""
        line = {
            "stage": self.job.split(".")[0],
            "job": self.job,
            "event": event,
            "seconds": round(time.time() - self.started, 3),
            "hardware": self.hardware,
            **figures,
        }
        text = json.dumps(plain(line), ensure_ascii=False, allow_nan=False) + "\n"
        handle = os.open(self.results, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, text.encode())
            os.fsync(handle)
        finally:
            os.close(handle)

    def arguments(self) -> list[str]:
        """The options by which another process gets the same post."""
        values = vars(self)
        return [text for name in values for text in (f"--{name}", str(values[name]))]

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Within the block no other process times anything; the wait for it does not count as this job's."""
        waiting = waiting_mark(self.work, self.job)
        waiting.touch()
        with open(self.work / "timing.lock", "w") as lock:
            while True:
                if not reserved_mark(self.work).exists() and try_lock(lock.fileno()):
                    break
                time.sleep(POLL_SECONDS)
            waiting.unlink()
            yield


def plain(value: Any) -> Any:
    """The value as JSON knows it: numbers that are not finite, and paths, as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of results; a last one that a kill cut short is left out."""
    whole = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return [read_line(line) for line in whole if line]


def read_line(text: str) -> dict[str, Any]:
    """One line's fields; a line that is no JSON becomes one that says so."""
    try:
        return json.loads(text)
    except ValueError:
        nowhere = dict.fromkeys(("stage", "job", "event"), "unreadable")
        return {**nowhere, "seconds": 0.0, "text": text[:200]}


def waiting_mark(work: Path, job: str) -> Path:
    """The file that is there while a job waits for the lock."""
    return work / "state" / f"{job}.waiting"


def reserved_mark(work: Path) -> Path:
    """The file that is there while the parent wants the lock next, or has it."""
    return work / "state" / "reserved"


def try_lock(handle: int) -> bool:
    """Whether the file is now locked by this process."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class TimingLock:
    """The lock as the parent takes it, for processes that know nothing of it."""

    def __init__(self, work: Path):
        self._mark = reserved_mark(work)
        self._mark.unlink(missing_ok=True)
        self._file = open(work / "timing.lock", "w")
        self._asked_by: str | None = None
        self._is_held = False

    def take(self, job: str) -> bool:
        """Whether the lock is that job's now; if another process has it, the job is the next to get it."""
        if self._asked_by is None:
            self._asked_by = job
            self._mark.touch()
        if self._asked_by == job and not self._is_held:
            self._is_held = try_lock(self._file.fileno())
        return self._asked_by == job and self._is_held

    def release(self, job: str) -> None:
        """Gives back what the job has or has asked for."""
        if self._asked_by == job:
            self._mark.unlink(missing_ok=True)
            fcntl.flock(self._file.fileno(), fcntl.LOCK_UN)
            self._asked_by, self._is_held = None, False


@dataclass
class Job:
    """A process of a stage, its limit, and what must have ended before."""

    name: str
    """STAGE or STAGE.PART."""
    command: list[str]
    limit: float
    """Seconds of its own work; waiting for the lock is not counted."""
    folder: Path = ROOT
    """Where it starts."""
    after: tuple[str, ...] = ()
    """Jobs that must have ended, in whatever way."""
    exclusive: bool = False
    """Whether it has the lock from start to end."""
    memory: float = 0.0
    """Share of the device's memory that it takes while it works."""
    process: subprocess.Popen | None = field(default=None, repr=False)
    begun: float = 0.0
    """By the monotonic clock."""
    worked: float = 0.0
    """Seconds without those of waiting."""
    status: str = "waiting"
    """waiting, running, done, failed, skipped or out of time."""
    reason: str = ""

    @property
    def stage(self) -> str:
        """The stage it belongs to."""
        return self.name.split(".")[0]

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status not in ("waiting", "running")

    def log(self, work: Path) -> Path:
        """The file with all that it prints."""
        return work / "logs" / f"{self.name}.log"

    def start(self, work: Path) -> None:
        """Starts the process as the leader of a group and session of its own."""
        waiting_mark(work, self.name).unlink(missing_ok=True)
        with open(self.log(work), "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.begun, self.status = time.monotonic(), "running"

    def is_waiting(self, work: Path) -> bool:
        """Whether it has everything ready but the lock."""
        return self.status == "running" and waiting_mark(work, self.name).exists()

    def look(self, work: Path, seconds: float) -> None:
        """Takes note of the process's end, or of its limit, `seconds` after the last look."""
        assert self.process is not None
        code = self.process.poll()
        if code is None:
            self.worked += 0.0 if self.is_waiting(work) else seconds
            if self.worked > self.limit:
                self.stop("out of time", f"killed after {self.worked:.0f} s; {last_line(self.log(work))}")
            return
        end_group(self.process)
        self.reason = "" if code == 0 else last_line(self.log(work)) or f"exit code {code}"
        self.status = {0: "done", SKIPPED: "skipped"}.get(code, "failed")

    def stop(self, status: str, reason: str) -> None:
        """Kills the process with its whole group and all that it started."""
        if self.process is not None and self.process.poll() is None:
            end_group(self.process)
        self.status, self.reason = status, reason


def last_line(log: Path) -> str:
    """The last line of a log that says anything, cut to a length that a table takes."""
    if not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    return next((line[:300] for line in reversed(lines) if line), "")


def descendants(pid: int) -> list[int]:
    """The processes below one, as far as the system tells: some start sessions of their own."""
    if not sys.platform.startswith("linux"):
        return []
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found, pending = [], [pid]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def end_group(process: subprocess.Popen) -> None:
    """Ends a process, its group and all below it: asked first, killed two seconds later."""
    below = descendants(process.pid)
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = _signal_all(process.pid, below, number)
        ends = time.monotonic() + GRACE_SECONDS
        while alive and time.monotonic() < ends:
            process.poll()
            alive = _signal_all(process.pid, below, 0)
            time.sleep(0.02)
        if not alive:
            return
    process.wait()


def _signal_all(group: int, below: list[int], number: int) -> bool:
    """Sends a signal to a group and to processes; whether any of them was still there."""
    reached = []
    for send, target in [(os.killpg, group), *((os.kill, pid) for pid in below)]:
        try:
            send(target, number)
        except (ProcessLookupError, PermissionError):
            continue
        reached.append(target)
    return bool(reached)
