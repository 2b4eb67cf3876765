"""Reads a record folder and nothing outside it: bounded, without following links, whatever bytes it holds."""

import codecs
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from golf.check.claims_json import Submission, SubmissionError, read_submission
from golf.check.findings import Evidence, Finding, error, info, warning
from golf.check.logs.read import ParsedLog, numbered, parse_log
from golf.check.scripts import Script, read_script

MAX_FILES = 2000
MAX_DEPTH = 6
MAX_TEXT_BYTES = 2**20
"""A JSON file, a script or a README above this is not read."""
LOG_PART_BYTES = 2 * 2**20
"""Of a log above twice this, the first and the last part of this size are read."""
MAX_LOG_BYTES = 2**30
MAX_READ_BYTES = 32 * 2**20
"""Of the logs and scripts of one folder together; the rest is not read."""

Track = Literal["10min", "non-record", "unknown"]

_LOG_SUFFIXES = {".log", ".out", ".txt", ""}
_TEXT_SUFFIXES = {".md", ".json", ".py", ".toml", ".cfg", ".sh", *_LOG_SUFFIXES}
_WEIGHT_SUFFIXES = {".ptz", ".pt", ".bin", ".safetensors", ".npz", ".pth", ".xz", ".zst"}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


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
    """What went wrong in reading."""
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

    def warn(self, code: str, message: str, name: str) -> None:
        """Adds a warning about a file."""
        self.problems.append(warning(code, message, Evidence(name)))


def read_folder(path: Path) -> Folder:
    """Reads a folder; raises OSError only if the folder itself cannot be listed."""
    os.scandir(path).close()
    folder = Folder(path)
    for entry in _walk(folder, path):
        if len(folder.files) >= MAX_FILES:
            text = f"more than {MAX_FILES} files; the rest was not looked at"
            folder.problems.append(warning("many-files", text))
            break
        folder.files.append(entry)
    for entry in sorted(folder.files, key=lambda e: (e.name.count("/"), e.name)):
        _take(folder, entry)
    _find_submission(folder)
    folder.track = _track(folder)
    return folder


def _walk(folder: Folder, top: Path) -> Iterator[Entry]:
    def unlisted(failure: OSError) -> None:
        name = Path(failure.filename or top).relative_to(top).as_posix()
        folder.warn("file-unreadable", f"cannot be read: {failure.strerror}", name)

    for directory, subfolders, files in os.walk(top, onerror=unlisted, followlinks=False):
        relative = Path(directory).relative_to(top)
        names = sorted(n for n in subfolders if n[0] != "." and n not in ("__pycache__", "node_modules"))
        links = [name for name in names if os.path.islink(os.path.join(directory, name))]
        subfolders[:] = [n for n in names if n not in links] if len(relative.parts) < MAX_DEPTH else []
        for name in [*links, *sorted(files)]:
            inside = (relative / name).as_posix()
            try:
                status = os.lstat(os.path.join(directory, name))
            except OSError as failure:
                folder.warn("file-unreadable", f"cannot be read: {failure.strerror}", inside)
                continue
            if stat.S_ISREG(status.st_mode):
                yield Entry(inside, status.st_size)
            elif stat.S_ISLNK(status.st_mode):
                folder.warn("link", "is a link; it was not followed, and a record must stand alone", inside)
            else:
                folder.warn("odd-file", "is neither a file nor a folder; it was not opened", inside)


def _take(folder: Folder, entry: Entry) -> None:
    name = PurePosixPath(entry.name).name.lower()
    is_requirements = name.startswith("requirements")
    is_log = entry.suffix in _LOG_SUFFIXES and not is_requirements
    limit = MAX_LOG_BYTES if is_log else MAX_TEXT_BYTES
    if entry.suffix not in _TEXT_SUFFIXES or name.startswith("license"):
        return
    if folder.num_bytes_read >= MAX_READ_BYTES:
        if not any(problem.code == "too-much-text" for problem in folder.problems):
            text = f"more than {MAX_READ_BYTES:,} bytes of text; from here on nothing was read"
            folder.warn("too-much-text", text, entry.name)
    elif entry.num_bytes > limit:
        if is_log or entry.suffix in (".py", ".json", ".md"):
            text = f"has {entry.num_bytes:,} bytes; above {limit:,} it is not read"
            folder.warn("file-too-large", text, entry.name)
    elif is_log:
        _take_log(folder, entry)
    elif entry.suffix == ".py":
        if (data := _read(folder, entry, 0, entry.num_bytes)) is not None:
            folder.num_bytes_read += len(data)
            folder.scripts.append(read_script(entry.name, data))
    elif name.startswith("readme") or (entry.suffix == ".md" and folder.readme is None):
        if (data := _read(folder, entry, 0, entry.num_bytes)) is not None:
            folder.readme = (entry.name, decode(data))
    elif is_requirements and (data := _read(folder, entry, 0, entry.num_bytes)) is not None:
        folder.requirements[entry.name] = decode(data)


def _take_log(folder: Folder, entry: Entry) -> None:
    whole = entry.num_bytes <= 2 * LOG_PART_BYTES
    head = _read(folder, entry, 0, entry.num_bytes if whole else LOG_PART_BYTES)
    if head is None:
        return
    if b"\x00" in head[:65536] and not head.startswith(_UTF16):
        if entry.suffix in (".log", ".out"):
            folder.warn("log-binary", "is not text; it was not read", entry.name)
        return
    folder.num_bytes_read += len(head)
    lines = list(numbered(decode(head)))
    if not whole:
        tail_start = entry.num_bytes - LOG_PART_BYTES
        tail = _read(folder, entry, tail_start, LOG_PART_BYTES)
        folder.num_bytes_read += LOG_PART_BYTES
        first = _count_newlines(folder, entry, tail_start) + 1
        lines = lines[:-1] + list(numbered(decode(tail or b""), first))[1:]
        text = f"has {entry.num_bytes:,} bytes; its first and last {LOG_PART_BYTES:,} were read"
        folder.problems.append(info("log-read-in-part", text, Evidence(entry.name)))
    log = parse_log(entry.name, lines)
    if log.has_content or entry.suffix in (".log", ".out"):
        folder.logs.append(log)


def _count_newlines(folder: Folder, entry: Entry, end: int) -> int:
    count = 0
    for start in range(0, end, LOG_PART_BYTES):
        count += (_read(folder, entry, start, min(LOG_PART_BYTES, end - start)) or b"").count(b"\n")
    return count


def _read(folder: Folder, entry: Entry, start: int, length: int) -> bytes | None:
    path = folder.path / entry.name
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            file.seek(start)
            return file.read(length)
    except OSError as failure:
        folder.warn("file-unreadable", f"cannot be read: {failure.strerror}", entry.name)
        return None


def decode(data: bytes) -> str:
    """Text of any bytes: UTF-16 by its mark (what PowerShell's redirection writes), else UTF-8."""
    return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8", errors="replace")


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
    except SubmissionError as failure:
        folder.problems.append(error("json-invalid", str(failure), Evidence(name)))
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
