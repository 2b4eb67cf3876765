"""A run's side of its trackers: it starts their processes, hears what they say, and ends them."""

import contextlib
import importlib.metadata
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import torch

from golf.system.device import env_without_torchrun
from golf.track.follow import DONE, FollowOptions
from golf.track.sinks import TRACKERS

PROJECT_ROOT = Path(__file__).resolve().parents[2]
CLOSE_SECONDS = 45.0
"""How long a tracker may take to send the rest, once the run has ended."""
KILL_SECONDS = 5.0
"""How much longer its process may take to give up by itself."""
SECRET_VARIABLE = re.compile("TOKEN|KEY|SECRET|PASSWORD", re.IGNORECASE)
LEAST_SECRET = 8
"""Characters; a shorter value is a setting that is called so."""
SYSTEM_SECONDS = 10.0
"""At least this long between two measurements of the system."""


class TrackerError(ValueError):
    """A tracker was asked for that is unknown, named twice, or whose package is not installed."""


def check_trackers(names: Sequence[str]) -> None:
    """TrackerError unless each name is that of a tracker whose package is installed, and none comes twice."""
    for name in names:
        if name not in TRACKERS:
            hint = (
                "; the folder under records/ is --record-track"
                if name.startswith(("local", "track_"))
                else ""
            )
            raise TrackerError(
                f"--track: no tracker is called {name!r}; there are {', '.join(TRACKERS)}{hint}"
            )
        if names.count(name) > 1:
            raise TrackerError(f"--track names {name} twice; a run goes to each tracker once")
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise TrackerError(
                f"--track {name} needs the package {name}, which is not installed: "
                f'pip install "parameter-golf-toolkit[{name}]"'
            ) from error


def hide_secrets(text: str, env: Mapping[str, str]) -> str:
    """A text for the run's log, which is published, without tokens, keys and passwords.

    These are the values of environment variables that are called so, and parts of addresses.
    """
    values = [value for name, value in env.items() if SECRET_VARIABLE.search(name)]
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= LEAST_SECRET:
            text = text.replace(value, "***")
    text = re.sub(r"(token=)[^&\s'\"]+", r"\1***", text)
    return re.sub(r"(://)[^/@\s]+@", r"\1***@", text)


class Trackers:
    """The trackers of one session of a run: each follows `events`, a run.jsonl, in a process of its own.

    Their files go to `folder`: NAME.log has what the package printed. `device` is the one that is measured.
    """

    def __init__(
        self,
        names: Sequence[str],
        events: Path,
        folder: Path,
        run_name: str,
        device: torch.device,
        close_seconds: float = CLOSE_SECONDS,
    ):
        self._close_seconds = close_seconds
        self._said: deque[str] = deque()
        self._folder, self._usage = folder, Usage(device, self._said.append)
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._listeners: list[threading.Thread] = []
        self._measured = time.monotonic()
        session_start = events.stat().st_size if events.is_file() else 0
        if names:
            folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            options = FollowOptions(name, events, folder, run_name, os.getpid(), session_start, close_seconds)
            try:
                self._start(name, options)
            except OSError as error:
                self._said.append(f"{name}: cannot be started and is left out: {error}")

    def news(self) -> list[str]:
        """What trackers have said since the last call."""
        return [self._said.popleft() for _ in range(len(self._said))]

    def system_figures(self) -> dict[str, float]:
        """Figures of this process and its device; empty within SYSTEM_SECONDS of the last ones."""
        if not self._processes or time.monotonic() - self._measured < SYSTEM_SECONDS:
            return {}
        self._measured = time.monotonic()
        return self._usage.figures()

    def close(self, done: bool) -> None:
        """Waits until all have sent the rest, for `close_seconds` and little more.

        `done` says that the run came to its end.
        """
        for process in self._processes.values():
            assert process.stdin is not None
            # One that has ended already has said so.
            with contextlib.suppress(OSError):
                process.stdin.write(DONE if done else "")
                process.stdin.close()
        deadline = time.monotonic() + self._close_seconds + KILL_SECONDS
        for name, process in self._processes.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                self._said.append(f"{name}: does not end and is killed")
        for listener in self._listeners:
            listener.join(1.0)
        self._processes = {}

    def _start(self, name: str, options: FollowOptions) -> None:
        told = msgspec.json.encode(options, enc_hook=str).decode()
        # -P: a folder golf/ or a file wandb.py where the run was started is not what is meant.
        command = [sys.executable, "-P", "-m", "golf.track.follow", told]
        env = env_without_torchrun()
        paths = [str(PROJECT_ROOT), env.get("PYTHONPATH", "")]
        env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        with open(self._folder / f"{name}.log", "ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=env,
                text=True,
                encoding="utf-8",
                # Ctrl-C is the run's alone: the tracker ends when the run has.
                start_new_session=True,
            )
        self._processes[name] = process
        listener = threading.Thread(target=self._listen, args=(name, process, env), daemon=True)
        listener.start()
        self._listeners.append(listener)

    def _listen(self, name: str, process: subprocess.Popen[str], env: Mapping[str, str]) -> None:
        assert process.stdout is not None
        num_said = 0
        for line in process.stdout:
            num_said += 1
            self._said.append(hide_secrets(line.rstrip("\n"), env))
        code = process.wait()
        # 1: it has said itself what failed.
        if code not in (0, 1) or (code and not num_said):
            log = self._folder / f"{name}.log"
            self._said.append(f"{name}: failed and is left out from here on: exit code {code}; see {log}")


class Usage:
    """What this process uses of the machine and of its GPU; `say` hears what cannot be measured."""

    def __init__(self, device: torch.device, say: Callable[[str], None]):
        self._say, self._device, self._before = say, device, (time.monotonic(), time.process_time())
        self._statm = Path("/proc/self/statm")
        self._has_share = device.type == "cuda"

    def figures(self) -> dict[str, float]:
        """Since the last call: cores in use on average; now: bytes of memory, share of the GPU's time.

        Resident memory is read on Linux; a GPU's share where nvidia-ml-py is installed.
        """
        now, before = (time.monotonic(), time.process_time()), self._before
        self._before = now
        found = {"cpu_cores": round((now[1] - before[1]) / max(1e-9, now[0] - before[0]), 3)}
        if self._statm.exists():
            found["rss_bytes"] = int(self._statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if self._device.type == "cuda":
            found["gpu_memory_bytes"] = torch.cuda.memory_reserved(self._device)
        if self._has_share:
            try:
                found["gpu_share"] = torch.cuda.utilization(self._device) / 100
            except ModuleNotFoundError:
                self._has_share = False
            # nvidia-ml-py's errors are its own: a partition of a GPU has no share.
            except Exception as error:
                self._has_share = False
                self._say(f"system/gpu_share cannot be read and is left out: {error}")
        return found
