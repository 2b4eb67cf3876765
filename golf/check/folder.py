"""Reads a record folder and nothing outside it: bounded, links not followed, any bytes survived."""

import codecs
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from golf.check.claims_json import Submission, SubmissionError, read_submission
from golf.check.findings import Evidence, Finding, defect, doubt, note
from golf.check.logs.lines import numbered
from golf.check.logs.read import ParsedLog, parse_log
from golf.check.scripts import Script, read_script

MAX_FILES = 2000
MAX_DEPTH = 6
MAX_TEXT_BYTES = 2**20
"""A JSON file, a script or a README above this is not read."""
LOG_PART_BYTES = 2 * 2**20
"""Of a log above twice this, the first and the last part of this size are read."""
MAX_LOG_BYTES = 2**30
MAX_READ_BYTES = 32 * 2**20
"""Of one folder, all files together; the rest is not read."""

Track = Literal["10min", "non-record", "unknown"]

_TEXT_SUFFIXES = {".md", ".json", ".py", ".txt", ".log", ".out", ".toml", ".cfg", ".sh", ""}
_WEIGHT_SUFFIXES = {".ptz", ".pt", ".bin", ".safetensors", ".npz", ".pth", ".xz", ".zst"}


@dataclass(frozen=True)
class Entry:
    """A regular file of the folder."""

    name: str
    """Path inside the folder, with forward slashes."""
    num_bytes: int

    @property
    def suffix(self) -> str:
        """The ending in lower case."""
        return PurePosixPath(self.name).suffix.lower()


@dataclass(eq=False)
class Folder:
    """What a record folder holds, read once; rules look at it and write nothing."""

    path: Path
    track: Track = "unknown"
    files: list[Entry] = field(default_factory=list)
    submission: Submission | None = None
    logs: list[ParsedLog] = field(default_factory=list)
    scripts: list[Script] = field(default_factory=list)
    readme: tuple[str, str] | None = None
    """Name and text."""
    requirements: dict[str, str] = field(default_factory=dict)
    """Text of each requirements file by name."""
    problems: list[Finding] = field(default_factory=list)
    """What reading itself came upon."""
    num_bytes_read: int = 0

    @property
    def script(self) -> Script | None:
        """The script that trains: train_gpt.py, else the only Python file."""
        named = [s for s in self.scripts if PurePosixPath(s.file).name == "train_gpt.py"]
        return (named or (self.scripts if len(self.scripts) == 1 else [None]))[0]

    @property
    def artifacts(self) -> list[Entry]:
        """Files that look like packed weights."""
        return [entry for entry in self.files if entry.suffix in _WEIGHT_SUFFIXES]


def read_folder(path: Path) -> Folder:
    """Reads a folder; raises OSError only if the folder itself cannot be listed."""
    os.scandir(path).close()
    folder = Folder(path)
    for entry in _walk(folder, path):
        if len(folder.files) >= MAX_FILES:
            folder.problems.append(
                doubt("many-files", f"more than {MAX_FILES} files; the rest was not looked at")
            )
            break
        folder.files.append(entry)
    for entry in sorted(folder.files, key=lambda e: (e.name.count("/"), e.name)):
        _take(folder, entry)
    _find_submission(folder)
    folder.track = _track(folder)
    return folder


def _walk(folder: Folder, top: Path) -> Iterator[Entry]:
    def unlisted(error: OSError) -> None:
        name = Path(error.filename or top).relative_to(top).as_posix()
        folder.problems.append(_unreadable(name, error))

    for directory, names, files in os.walk(top, onerror=unlisted, followlinks=False):
        relative = Path(directory).relative_to(top)
        names[:] = sorted(
            n for n in names if not n.startswith(".") and n not in ("__pycache__", "node_modules")
        )
        for name in [n for n in names if os.path.islink(os.path.join(directory, n))]:
            names.remove(name)
            folder.problems.append(_link_finding(relative / name))
        if len(relative.parts) >= MAX_DEPTH:
            names.clear()
        for name in sorted(files):
            inside = (relative / name).as_posix()
            try:
                info = os.lstat(os.path.join(directory, name))
            except OSError as error:
                folder.problems.append(_unreadable(inside, error))
                continue
            if stat.S_ISLNK(info.st_mode):
                folder.problems.append(_link_finding(relative / name))
            elif stat.S_ISREG(info.st_mode):
                yield Entry(inside, info.st_size)
            else:
                text = "is neither a file nor a folder; it was not opened"
                folder.problems.append(doubt("odd-file", text, Evidence(inside)))


def _link_finding(name: Path) -> Finding:
    text = "is a link; it was not followed, and a record must stand alone"
    return doubt("link", text, Evidence(name.as_posix()))


def _unreadable(name: str, error: OSError) -> Finding:
    return doubt("file-unreadable", f"cannot be read: {error.strerror}", Evidence(name))


def _take(folder: Folder, entry: Entry) -> None:
    name = PurePosixPath(entry.name).name.lower()
    if entry.suffix not in _TEXT_SUFFIXES or name.startswith("license"):
        return
    if folder.num_bytes_read >= MAX_READ_BYTES:
        if not any(problem.code == "too-much-text" for problem in folder.problems):
            text = f"more than {MAX_READ_BYTES:,} bytes of text; from here on nothing was read"
            folder.problems.append(doubt("too-much-text", text, Evidence(entry.name)))
        return
    is_log = entry.suffix in (".log", ".out", ".txt", "") and not name.startswith("requirements")
    if is_log:
        _take_log(folder, entry)
        return
    if entry.num_bytes > MAX_TEXT_BYTES:
        if entry.suffix in (".py", ".json", ".md"):
            text = f"has {entry.num_bytes:,} bytes; above {MAX_TEXT_BYTES:,} it is not read"
            folder.problems.append(doubt("file-too-large", text, Evidence(entry.name)))
        return
    if entry.suffix == ".py":
        data = _read(folder, entry, 0, entry.num_bytes)
        folder.num_bytes_read += len(data or b"")
        if data is not None:
            folder.scripts.append(read_script(entry.name, data))
    elif name.startswith("readme") or (entry.suffix == ".md" and folder.readme is None):
        data = _read(folder, entry, 0, entry.num_bytes)
        if data is not None and (folder.readme is None or name.startswith("readme")):
            folder.readme = (entry.name, decode(data))
    elif name.startswith("requirements"):
        data = _read(folder, entry, 0, entry.num_bytes)
        if data is not None:
            folder.requirements[entry.name] = decode(data)


def _take_log(folder: Folder, entry: Entry) -> None:
    if entry.num_bytes > MAX_LOG_BYTES:
        text = f"has {entry.num_bytes:,} bytes; above {MAX_LOG_BYTES:,} it is not read"
        folder.problems.append(doubt("file-too-large", text, Evidence(entry.name)))
        return
    whole = entry.num_bytes <= 2 * LOG_PART_BYTES
    head = _read(folder, entry, 0, entry.num_bytes if whole else LOG_PART_BYTES)
    if head is None:
        return
    if _is_binary(head):
        if entry.suffix in (".log", ".out"):
            folder.problems.append(doubt("log-binary", "is not text; it was not read", Evidence(entry.name)))
        return
    folder.num_bytes_read += len(head)
    lines = list(numbered(decode(head)))
    if not whole:
        tail = _read(folder, entry, entry.num_bytes - LOG_PART_BYTES, LOG_PART_BYTES)
        folder.num_bytes_read += LOG_PART_BYTES
        first = _count_newlines(folder, entry, entry.num_bytes - LOG_PART_BYTES) + 1
        lines = lines[:-1] + list(numbered(decode(tail or b""), first))[1:]
        text = f"has {entry.num_bytes:,} bytes; its first and last {LOG_PART_BYTES:,} were read"
        folder.problems.append(note("log-read-in-part", text, Evidence(entry.name)))
    log = parse_log(entry.name, lines)
    if log.has_content or entry.suffix in (".log", ".out"):
        folder.logs.append(log)


def _count_newlines(folder: Folder, entry: Entry, end: int) -> int:
    count, position = 0, 0
    while position < end:
        data = _read(folder, entry, position, min(LOG_PART_BYTES, end - position))
        if not data:
            break
        count += data.count(b"\n")
        position += len(data)
    return count


def _read(folder: Folder, entry: Entry, start: int, length: int) -> bytes | None:
    path = folder.path / entry.name
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            file.seek(start)
            return file.read(length)
    except OSError as error:
        folder.problems.append(_unreadable(entry.name, error))
        return None


def _is_binary(data: bytes) -> bool:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return False
    return b"\x00" in data[:65536]


def decode(data: bytes) -> str:
    """Text of any bytes: UTF-16 by its mark (what PowerShell's redirection writes), else UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8", errors="replace")


def _find_submission(folder: Folder) -> None:
    names = {entry.name: entry for entry in folder.files if entry.suffix == ".json"}
    likely = [n for n in sorted(names) if "submission" in n.lower() and "/" not in n]
    name = "submission.json" if "submission.json" in names else (likely or [""])[0]
    if not name or names[name].num_bytes > MAX_TEXT_BYTES:
        return
    data = _read(folder, names[name], 0, MAX_TEXT_BYTES)
    if data is None:
        return
    try:
        folder.submission = read_submission(name, decode(data))
    except SubmissionError as error:
        folder.problems.append(defect("json-invalid", str(error), Evidence(name)))
        folder.submission = Submission(name, {})


def _track(folder: Folder) -> Track:
    parent = folder.path.resolve().parent.name.lower()
    claimed = folder.submission.names.get("track", "").lower() if folder.submission else ""
    for text in (parent, claimed):
        if ("non" in text and "record" in text) or "unlimited" in text:
            return "non-record"
        if "10min" in text or "10_min" in text or "10-min" in text:
            return "10min"
    return "unknown"
