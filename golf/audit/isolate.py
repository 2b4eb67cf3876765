"""Runs a stranger's program without network, environment and files but those that it needs, within limits.

bubblewrap isolates it where that is installed and works, else Linux namespaces made by `unshare`. The program
sees, read-only, the interpreter, system libraries and what is named; its working folder is a file system of
limited size in memory, which goes with it. All its processes end with it, and with the process that asked.
Files that it leaves come back as bounded bytes. Where a system has neither (macOS, containers without user
namespaces) nothing runs, unless the caller trusts the program.
"""

import json
import math
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

from golf.system.device import end_with_parent, env_without_torchrun

BUBBLEWRAP, NAMESPACES, NONE = "bubblewrap", "namespaces", "none, trusted"
WORK = "/isolated"
"""Holds the program's home, its temporary folder and, as `here`, its working folder."""
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store")
_SETTINGS = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_SMALL_BYTES = 1 << 26
_MAX_REPORT_BYTES = 1 << 20
_WATCH_SECONDS = 0.1
_MAX_OPEN_FILES = 1024
_MIN_FREE_BYTES = 1 << 28
_KEPT_ENVIRONMENT = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG"),
)


class IsolationError(ValueError):
    """Nothing on this system isolates a program."""


@dataclass(frozen=True)
class Limits:
    """How much a program may take."""

    seconds: float = 3600.0
    """Wall clock."""
    memory_bytes: int = 1 << 34
    """Resident memory of all its processes together."""
    processes: int = 1024
    """Processes and threads at a time."""
    scratch_bytes: int = 1 << 30
    """Files in its working folder, together."""
    output_bytes: int = 1 << 22
    """Standard output and error, together."""
    is_stopped: Callable[[], bool] = lambda: False
    """Asked several times a second by a caller in another thread; true ends it."""


@dataclass(frozen=True)
class Outcome:
    """How a program ended, and what it left."""

    returncode: int
    """Negative: the signal that ended it."""
    stdout: bytes
    stderr: bytes
    mechanism: str
    """bubblewrap, namespaces, or none, trusted."""
    stopped_by: str | None = None
    """The limit that ended it, in words."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Outputs that came back."""

    @property
    def last_words(self) -> str:
        """The last line of standard error."""
        return (self.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1][:500]

    @property
    def failure(self) -> str | None:
        """Why it did not do what it should, in one line; None for exit code 0."""
        if self.stopped_by is not None:
            return self.stopped_by
        if self.returncode == 0:
            return None
        return f"ended with {self.returncode}: {self.last_words}"


def run_isolated(
    command: Sequence[str],
    *,
    inputs: Mapping[str, Path],
    outputs: Mapping[str, int],
    into: Path,
    visible: Sequence[Path] = (),
    limits: Limits | None = None,
    trust: bool = False,
    device: str = "cpu",
    show: Callable[[bytes], None] | None = None,
) -> Outcome:
    """Runs `command` in a working folder with copies of `inputs`, by their names there.

    `visible` are files and folders that it sees, read-only, where they are; `outputs` are names in the
    working folder, with the most bytes that each may have, that are brought back into the folder `into`. With
    `trust` a system without isolation runs the program with the user's own rights, in an empty folder and
    within the limits of time, memory, processes and output. `device` says whether it needs a GPU. `show`
    takes what it prints, as it comes. Raises IsolationError where nothing isolates and `trust` is not given.
    """
    limits, mechanism = limits or Limits(), choose_mechanism(trust)
    with tempfile.TemporaryDirectory() as folder:
        return _run(mechanism, Path(folder), command, inputs, outputs, into, visible, limits, device, show)


def run_project(function: str, arguments: Sequence[str], *, visible: Sequence[Path], **how: Any) -> Outcome:
    """Runs a function of this project, "module:name", that takes arguments and returns an exit code.

    It works on a stranger's files, which is why it is isolated; being no stranger's itself, it runs on
    systems without isolation, too. `how` as in `run_isolated`, but for the command and trust.
    """
    module, name = function.split(":")
    root = Path(__file__).resolve().parents[2]
    start = f"import sys; sys.path.insert(0, {str(root)!r}); from {module} import {name} as program; "
    start += "sys.exit(program(sys.argv[1:]))"
    own = [root / "golf", root / "eval_bpb.py"]
    command = [sys.executable, "-I", "-c", start, *arguments]
    return run_isolated(command, visible=[*own, *visible], trust=True, **how)


def choose_mechanism(trust: bool) -> str:
    """What isolates here, NONE where nothing does and `trust` is given; else raises IsolationError."""
    mechanism = find_mechanism()
    if mechanism is None and not trust:
        raise IsolationError(
            "this system has no isolation for a stranger's program: install bubblewrap (Debian, Ubuntu: "
            "apt-get install bubblewrap) or allow user namespaces; --trust runs it with your own rights"
        )
    return mechanism or NONE


@cache
def find_mechanism() -> str | None:
    """What isolates on this system, found by running a program in it; None for nothing."""
    for mechanism in (BUBBLEWRAP, NAMESPACES):
        if works(mechanism):
            return mechanism
    return None


def works(mechanism: str) -> bool:
    """Whether a program can be run under a mechanism."""
    tool = {BUBBLEWRAP: "bwrap", NAMESPACES: "unshare"}[mechanism]
    if not sys.platform.startswith("linux") or shutil.which(tool) is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        asked = [sys.executable, "-I", "-c", "print(6 * 7)"]
        done = _run(mechanism, Path(folder), asked, {}, {}, Path(folder), (), Limits(seconds=60), "cpu")
    return done.returncode == 0 and done.stdout == b"42\n"


def _run(
    mechanism: str,
    folder: Path,
    command: Sequence[str],
    inputs: Mapping[str, Path],
    outputs: Mapping[str, int],
    into: Path,
    visible: Sequence[Path],
    limits: Limits,
    device: str,
    show: Callable[[bytes], None] | None = None,
) -> Outcome:
    own = env_without_torchrun()
    environment = {name: own[name] for name in _KEPT_ENVIRONMENT if name in own}
    environment |= {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "USER": "user"}
    work = folder / "work"
    read_end, write_end = os.pipe()
    try:
        if mechanism == NONE:
            work.mkdir()
            for name, path in inputs.items():
                shutil.copyfile(path, work / name)
            environment |= {"HOME": str(work), "TMPDIR": str(work)}
            process = _start(command, work, environment, ())
            os.close(write_end)
        else:
            told = {
                "command": list(command),
                "environment": environment | {"HOME": f"{WORK}/home", "TMPDIR": f"{WORK}/tmp"},
                "inputs": list(inputs),
                "outputs": dict(outputs),
                "fd": write_end,
                "limits": {
                    "RLIMIT_CORE": 0,
                    "RLIMIT_NOFILE": _MAX_OPEN_FILES,
                    "RLIMIT_FSIZE": limits.scratch_bytes,
                    # Above what is watched, which says so; for root the kernel has no such limit.
                    "RLIMIT_NPROC": limits.processes + 64,
                },
            }
            launcher = _launcher(mechanism, folder, told, inputs, visible, limits, device)
            process = _start(launcher, folder, environment, (write_end,))
            os.close(write_end)
        watched = _Watched(process, read_end, limits, sum(outputs.values()), show)
        stopped_by = watched.wait()
    finally:
        os.close(read_end)
    stdout, stderr = bytes(watched.stdout), bytes(watched.stderr)
    if mechanism == NONE:
        code, files = process.returncode, {}
        for name, most in outputs.items():
            left = work / name
            if left.is_file() and not left.is_symlink() and left.stat().st_size <= most:
                files[name] = shutil.copyfile(left, into / name)
        return Outcome(code, stdout, stderr, mechanism, stopped_by, files)
    if stopped_by is not None:
        return Outcome(-signal.SIGKILL, stdout, stderr, mechanism, stopped_by)
    code, files = unpack_report(bytes(watched.report), outputs, into)
    if code is None:
        # The keeper was ended, or could not be started.
        return Outcome(process.returncode or 1, stdout, stderr, mechanism)
    return Outcome(code, stdout, stderr, mechanism, None, files)


def _start(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], fds: Sequence[int]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=fds,
        start_new_session=True,
        preexec_fn=end_with_parent(),
    )


def _launcher(
    mechanism: str,
    folder: Path,
    told: dict[str, Any],
    inputs: Mapping[str, Path],
    visible: Sequence[Path],
    limits: Limits,
    device: str,
) -> list[str]:
    """The command that isolates a keeper (golf.audit.keeper), which runs the program."""
    binds, links = [], []
    for path in _SYSTEM:
        if os.path.islink(path):
            links.append((os.readlink(path), path))
        elif os.path.isdir(path):
            binds.append((path, path))
    python = {os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    python |= {sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))}
    shown = sorted({*python, *(str(path.resolve()) for path in visible)})
    etc = [f"/etc/{name}" for name in _SETTINGS if os.path.exists(f"/etc/{name}")]
    for path in (*shown, *etc):
        # Shorter paths come first; what lies in one of them is seen with it.
        if not any(path == seen or path.startswith(f"{seen}/") for seen, _ in binds):
            binds.append((path, path))
    binds += [(str(path.resolve()), f"/inputs/{name}") for name, path in inputs.items()]
    devices = [f"/dev/{name}" for name in _DEVICES]
    if device.startswith("cuda"):
        devices += sorted(str(path) for path in Path("/dev").glob("nvidia*"))
        binds.append(("/sys", "/sys"))
    folders = [(WORK, limits.scratch_bytes), ("/tmp", _SMALL_BYTES), ("/dev/shm", _SMALL_BYTES)]
    keeper = Path(__file__).with_name("keeper.py").read_text(encoding="utf-8")
    start = [sys.executable, "-I", "-c", keeper]
    if mechanism == NAMESPACES:
        root = folder / "root"
        root.mkdir()
        told |= {"root": str(root), "binds": [*binds, *((path, path) for path in devices)]}
        told |= {"links": links, "folders": folders}
        flags = ["--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--uts"]
        return ["unshare", *flags, "--fork", "--kill-child", "--", *start, json.dumps(told)]
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    options += ["--proc", "/proc", "--dev", "/dev"]
    for path, size in folders:
        options += ["--size", str(size), "--tmpfs", path]
    for source, target in binds:
        options += ["--ro-bind", source, target]
    for target, link in links:
        options += ["--symlink", target, link]
    for path in devices[len(_DEVICES) :]:
        options += ["--dev-bind", path, path]
    options += ["--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]
    return ["bwrap", *options, "--", *start, json.dumps(told)]


class _Watched:
    """Reads what a process and its keeper write, and ends it when it takes more than its limits."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        report: int,
        limits: Limits,
        most_output_bytes: int,
        show: Callable[[bytes], None] | None,
    ):
        self.process, self.limits, self._show = process, limits, show
        self.stdout, self.stderr, self.report = bytearray(), bytearray(), bytearray()
        self._most_report = most_output_bytes + _MAX_REPORT_BYTES
        self._report_fd = report

    def wait(self) -> str | None:
        """Waits for its end; the limit that ended it, in words."""
        try:
            return self._watch()
        finally:
            self._end()

    def _watch(self) -> str | None:
        limits, stop_at = self.limits, time.monotonic() + self.limits.seconds
        streams: list[tuple[IO[bytes] | int | None, bytearray]] = [
            *((self.process.stdout, self.stdout), (self.process.stderr, self.stderr)),
            (self._report_fd, self.report),
        ]
        with selectors.DefaultSelector() as selector:
            for stream, buffer in streams:
                assert stream is not None, "streams are pipes"
                selector.register(stream, selectors.EVENT_READ, buffer)
            watch_at = 0.0
            while selector.get_map() or self.process.poll() is None:
                ready = selector.select(_WATCH_SECONDS)
                if limits.is_stopped():
                    return "it was stopped"
                if not ready and self.process.poll() is not None:
                    # What holds the pipes open is a process that it left.
                    break
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    key.data.extend(data)
                    if key.data is self.stdout and self._show is not None:
                        self._show(data)
                    if not data:
                        selector.unregister(key.fileobj)
                if len(self.stdout) + len(self.stderr) > limits.output_bytes:
                    return f"it printed more than {limits.output_bytes:,} bytes"
                if len(self.report) > self._most_report:
                    return "its report is longer than its files"
                now = time.monotonic()
                if now > stop_at:
                    return f"it took longer than {limits.seconds:,.0f} s"
                if now > watch_at:
                    watch_at = now + _WATCH_SECONDS
                    count, memory_bytes = measure_tree(self.process.pid)
                    if count > limits.processes:
                        return f"it had more than {limits.processes:,} processes and threads"
                    if memory_bytes > limits.memory_bytes:
                        return f"it took more than {limits.memory_bytes:,} bytes of memory"
                    if free_bytes() < _MIN_FREE_BYTES:
                        return "while it ran, the machine had almost no memory left"
        return None

    def _end(self) -> None:
        """Ends the process, its session and all that still descends from it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pid in [*_descendants(self.process.pid), self.process.pid]:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def measure_tree(pid: int) -> tuple[int, int]:
    """Threads of `pid` and of all that descend from it, and their resident bytes; zeros without /proc."""
    threads = pages = 0
    for each in [pid, *_descendants(pid)]:
        with suppress(OSError, ValueError, IndexError):
            threads += int(_read_stat(each)[17])
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
    return threads, pages * os.sysconf("SC_PAGE_SIZE")


def free_bytes() -> float:
    """Memory that the system could still give; infinite where it does not say."""
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text()
        return int(text.partition("MemAvailable:")[2].split()[0]) * 1024
    return math.inf


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    with suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with suppress(OSError, ValueError, IndexError):
                    children.setdefault(int(_read_stat(int(name))[1]), []).append(int(name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _read_stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat behind the name, which, in parentheses, may hold anything."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()


def unpack_report(
    report: bytes, outputs: Mapping[str, int], into: Path
) -> tuple[int | None, dict[str, Path]]:
    """Exit code and files of a keeper's report; None for one that cannot be read."""
    line, _, data = report.partition(b"\n")
    files: dict[str, Path] = {}
    try:
        told = json.loads(line)
        code, listed = int(told["returncode"]), [(str(name), int(size)) for name, size in told["files"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None, files
    for name, size in listed:
        if name not in outputs or name in files or not 0 <= size <= min(outputs[name], len(data)):
            return None, files
        files[name] = into / name
        files[name].write_bytes(data[:size])
        data = data[size:]
    return code, files
