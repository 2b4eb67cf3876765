"""Reads a record folder and nothing outside it: bounded, without following links, whatever bytes it holds."""

import codecs
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from golf.check.findings import Quote, error, info, warning
from golf.check.logs import numbered, parse_log
from golf.check.record import Entry, Record, Track
from golf.check.scripts import read_script
from golf.check.submission import Submission, SubmissionError, read_submission

MAX_FILES = 2000
MAX_DEPTH = 6
MAX_TEXT_BYTES = 2**20
"""A JSON file, a script or a README above this is not read."""
LOG_PART_BYTES = 2 * 2**20
"""Of a log above twice this, the first and the last part of this size are read."""
MAX_LOG_BYTES = 2**30
MAX_READ_BYTES = 32 * 2**20
"""Of the logs and scripts of one folder together; the rest is not read."""

_LOG_SUFFIXES = {".log", ".out", ".txt", ""}
_TEXT_SUFFIXES = {".md", ".json", ".py", ".toml", ".cfg", ".sh", *_LOG_SUFFIXES}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_record(path: Path) -> Record:
    """Reads a folder; raises OSError only if the folder itself cannot be listed."""
    os.scandir(path).close()
    record = Record(path)
    for entry in _walk(record):
        if len(record.files) >= MAX_FILES:
            text = f"more than {MAX_FILES} files; the rest was not looked at"
            record.problems.append(warning("many-files", text))
            break
        record.files.append(entry)
    for entry in sorted(record.files, key=lambda e: (not _is_readme(e), e.name.count("/"), e.name)):
        _take(record, entry)
    _find_submission(record)
    record.track = _track(record)
    return record


def decode(data: bytes) -> str:
    """Text of any bytes: UTF-16 by its mark (what PowerShell's redirection writes), else UTF-8."""
    return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8", errors="replace")


def _warn(record: Record, code: str, message: str, name: str) -> None:
    record.problems.append(warning(code, message, Quote(name)))


def _walk(record: Record) -> Iterator[Entry]:
    def unlisted(failure: OSError) -> None:
        name = Path(failure.filename or record.path).relative_to(record.path).as_posix()
        _warn(record, "file-unreadable", f"cannot be read: {failure.strerror}", name)

    for directory, subfolders, files in os.walk(record.path, onerror=unlisted):
        relative = Path(directory).relative_to(record.path)
        names = sorted(n for n in subfolders if n[0] != "." and n not in ("__pycache__", "node_modules"))
        links = [name for name in names if os.path.islink(os.path.join(directory, name))]
        subfolders[:] = [n for n in names if n not in links] if len(relative.parts) < MAX_DEPTH else []
        for name in [*links, *sorted(files)]:
            inside = (relative / name).as_posix()
            try:
                status = os.lstat(os.path.join(directory, name))
            except OSError as failure:
                _warn(record, "file-unreadable", f"cannot be read: {failure.strerror}", inside)
                continue
            if stat.S_ISREG(status.st_mode):
                yield Entry(inside, status.st_size)
            elif stat.S_ISLNK(status.st_mode):
                _warn(record, "link", "is a link; it was not followed, and a record must stand alone", inside)
            else:
                _warn(record, "odd-file", "is neither a file nor a folder; it was not opened", inside)


def _is_readme(entry: Entry) -> bool:
    return PurePosixPath(entry.name).name.lower().startswith("readme")


def _take(record: Record, entry: Entry) -> None:
    name = PurePosixPath(entry.name).name.lower()
    is_requirements = name.startswith("requirements")
    is_log = entry.suffix in _LOG_SUFFIXES and not is_requirements
    limit = MAX_LOG_BYTES if is_log else MAX_TEXT_BYTES
    if entry.suffix not in _TEXT_SUFFIXES or name.startswith("license"):
        return
    if record.num_bytes_read >= MAX_READ_BYTES:
        if not any(problem.code == "too-much-text" for problem in record.problems):
            text = f"more than {MAX_READ_BYTES:,} bytes of text; from here on nothing was read"
            _warn(record, "too-much-text", text, entry.name)
    elif entry.num_bytes > limit:
        if is_log or entry.suffix in (".py", ".json", ".md"):
            text = f"has {entry.num_bytes:,} bytes; above {limit:,} it is not read"
            _warn(record, "file-too-large", text, entry.name)
    elif is_log:
        _take_log(record, entry)
    elif entry.suffix in (".py", ".md") or _is_readme(entry) or is_requirements:
        data = _read(record, entry, 0, entry.num_bytes)
        if data is None:
            return
        if entry.suffix == ".py":
            record.num_bytes_read += len(data)
            record.scripts.append(read_script(entry.name, data))
        elif is_requirements and entry.suffix != ".md":
            record.requirements[entry.name] = decode(data)
        elif record.readme is None:
            record.readme = (entry.name, decode(data))


def _take_log(record: Record, entry: Entry) -> None:
    whole = entry.num_bytes <= 2 * LOG_PART_BYTES
    head = _read(record, entry, 0, entry.num_bytes if whole else LOG_PART_BYTES)
    if head is None:
        return
    if b"\x00" in head[:65536] and not head.startswith(_UTF16):
        if entry.suffix in (".log", ".out"):
            _warn(record, "log-binary", "is not text; it was not read", entry.name)
        return
    record.num_bytes_read += len(head)
    lines = list(numbered(decode(head)))
    if not whole:
        record.num_bytes_read += LOG_PART_BYTES
        starts = range(0, entry.num_bytes - LOG_PART_BYTES, LOG_PART_BYTES)
        parts = (_read(record, entry, start, min(LOG_PART_BYTES, starts.stop - start)) for start in starts)
        first = 1 + sum((part or b"").count(b"\n") for part in parts)
        tail = _read(record, entry, starts.stop, LOG_PART_BYTES)
        lines = lines[:-1] + list(numbered(decode(tail or b""), first))[1:]
        text = f"has {entry.num_bytes:,} bytes; its first and last {LOG_PART_BYTES:,} were read"
        record.problems.append(info("log-read-in-part", text, Quote(entry.name)))
    log = parse_log(entry.name, lines)
    if log.has_content or entry.suffix in (".log", ".out"):
        record.logs.append(log)


def _read(record: Record, entry: Entry, start: int, length: int) -> bytes | None:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(os.open(record.path / entry.name, flags), "rb") as file:
            file.seek(start)
            return file.read(length)
    except OSError as failure:
        _warn(record, "file-unreadable", f"cannot be read: {failure.strerror}", entry.name)
        return None


def _find_submission(record: Record) -> None:
    entries = {entry.name: entry for entry in record.files if entry.suffix == ".json"}
    likely = [name for name in sorted(entries) if "submission" in name.lower() and "/" not in name]
    name = "submission.json" if "submission.json" in entries else (likely or [""])[0]
    if not name or entries[name].num_bytes > MAX_TEXT_BYTES:
        return
    data = _read(record, entries[name], 0, MAX_TEXT_BYTES)
    if data is None:
        return
    try:
        record.submission = read_submission(name, decode(data))
    except SubmissionError as failure:
        record.problems.append(error("json-invalid", str(failure), Quote(name)))
        record.submission = Submission(name, {})


def _track(record: Record) -> Track:
    claimed = record.submission.names.get("track", "").lower() if record.submission else ""
    for text in (record.path.resolve().parent.name.lower(), claimed):
        if ("non" in text and "record" in text) or "unlimited" in text:
            return "non-record"
        if "10min" in text or "10_min" in text or "10-min" in text:
            return "10min"
    return "unknown"
