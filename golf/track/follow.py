"""The process of one tracker: it follows a run.jsonl and sends what it finds there, until the run ends.

It says lines on its standard output, and the packages' own output goes to its standard error. Its standard
input ends with the run; the word DONE says that the run came to its end. A tracker that is then not done
within `close_seconds` is given up.
"""

import contextlib
import json
import os
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from golf.system.files import write_json
from golf.track.figures import CONFIG, CURVES, figures_of, step_of
from golf.track.sinks import TRACKERS, Sink, TrackedRun

POLL_SECONDS = 0.5
DONE = "done"


@dataclass(frozen=True)
class FollowOptions:
    """What a tracker's process is told."""

    tracker: str
    events: Path
    """The run.jsonl."""
    folder: Path
    """For the tracker's files."""
    name: str
    """Of the run."""
    pid: int
    """The process that trains."""
    session_start: int
    """Bytes of `events` that earlier sessions of the run wrote."""
    close_seconds: float
    """How long the tracker may take to send the rest, once the run has ended."""


@dataclass
class Progress:
    """How far a tracker has come in a run's events, kept between sessions."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    position: int = 0
    """Bytes of the events that were sent."""
    steps: dict[str, int] = field(default_factory=dict)
    """Last step sent, by the kind of event."""


class Follower:
    """Sends the events of a run to one tracker, each once."""

    def __init__(self, options: FollowOptions, say: Any):
        self.options, self._say = options, say
        self._state_path = options.folder / f"{options.tracker}.json"
        self._sink: Sink | None = None
        self._config: dict[str, Any] = {}
        self._waiting: list[dict[str, Any]] = []
        self.progress = Progress()
        if self._state_path.is_file():
            self.progress = msgspec.json.decode(self._state_path.read_bytes(), type=Progress)
        self._position = self.progress.position

    def send_new(self) -> None:
        """Sends the events that came since the last call, and keeps how far that is.

        The tracker is made once this session has logged its configuration.
        """
        is_new = False
        for position, event in self._new_events():
            is_new = True
            self._waiting.append(event)
            if event.get("event") in CONFIG:
                own = {key: value for key, value in event.items() if key not in ("event", "log_seconds")}
                self._config |= {"environment": own} if event["event"] == "environment" else own
                if event["event"] == "config" and position >= self.options.session_start:
                    self._sink = self._sink or self._make_sink()
        if self._sink is None or not is_new:
            return
        for event in self._waiting:
            self._send(self._sink, event)
        self._waiting.clear()
        self.progress.position = self._position
        write_json(self._state_path, asdict(self.progress))

    def close(self, done: bool) -> None:
        """Closes the tracker, if the run came so far as to make one."""
        if self._sink is not None:
            self._sink.close(done)

    def rest(self) -> str:
        """How to get at what was not sent."""
        own = "" if self._sink is None else self._sink.rest
        return own or f"the run's events are in {self.options.events}"

    def _make_sink(self) -> Sink:
        options, own_id = self.options, self.progress.id
        name = f"{options.name}-{own_id}"
        run = TrackedRun(name, own_id, options.folder, self._config, options.pid, self._say)
        return TRACKERS[options.tracker](run)

    def _send(self, sink: Sink, event: dict[str, Any]) -> None:
        steps, step, kind = self.progress.steps, step_of(event), str(event.get("event"))
        figures = figures_of(event)
        if kind in CURVES and step is not None:
            # What a resumed run trains again, from its checkpoint on, was sent before.
            if step <= steps.get(kind, -1):
                return
            steps[kind] = step
        if figures.curves or figures.system or figures.summary:
            sink.send(figures, max(steps.values(), default=0))

    def _new_events(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The events of whole lines that were not read before, and where each begins."""
        if not self.options.events.is_file():
            return
        with open(self.options.events, "rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                begin = self._position
                self._position += len(line)
                # A line that was cut by a kill goes on with the first one of the next session.
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        yield begin, event


def follow(options: FollowOptions, say: Any) -> None:
    """Follows a run until it ends."""
    follower, ended, words = Follower(options, say), threading.Event(), []

    def wait_for_end() -> None:
        # Not sys.stdin, whose lock a thread must not hold when the interpreter ends.
        while part := os.read(0, 64):
            words.append(part)
        ended.set()
        threading.Event().wait(options.close_seconds)
        say(f"was not done {options.close_seconds:g} s after the run and is given up; {follower.rest()}")
        os._exit(1)

    threading.Thread(target=wait_for_end, daemon=True).start()
    is_over = False
    while not is_over:
        is_over = ended.wait(POLL_SECONDS)
        follower.send_new()
    follower.close(b"".join(words) == DONE.encode())


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 the tracker failed, as it has said."""
    options = msgspec.json.decode(arguments[0], type=FollowOptions, dec_hook=lambda kind, text: kind(text))
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as told:
        os.dup2(2, 1)

        def say(text: str) -> None:
            print(f"{options.tracker}: {' '.join(text.split())}", file=told)

        try:
            follow(options, say)
        # Whatever goes wrong in a tracker, it is said, and the run goes on.
        except Exception as error:
            say(f"failed and is left out from here on: {type(error).__name__}: {error}")
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
