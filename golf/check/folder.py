"""Reads a record folder and nothing outside it: bounded, without following links, whatever bytes it holds."""

import gc
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from golf.check.findings import Quote, error, info, warning
from golf.check.logs import Fact, numbered, parse_log
from golf.check.record import Entry, Record, Track, is_readme, seed_of
from golf.check.scripts import read_script
from golf.check.submission import Submission, SubmissionError, read_submission
from golf.system.foreign import UTF16_MARKS, ForeignError, decode_text, read_part

MAX_FILES = 2000
MAX_DEPTH = 6
MAX_TEXT_BYTES = 2**20
"""A JSON file, a script or a README above this is not read."""
MIN_LOG_PART_BYTES = 2**15
"""Of a log above twice its share, the first and the last part are read; shares are no smaller than this."""
MAX_LOG_BYTES = 2**28
"""Of all logs of a folder together, the lines that are only counted included."""
MAX_READ_BYTES = 3 * 2**19
"""Of the logs of one folder together, in equal shares of those that need it."""
MAX_SUMMARY_BYTES = 2**17
"""Of a JSON file beside submission.json; a larger one is data, not a summary of runs."""
MAX_SCRIPT_BYTES = 2**20
"""Of the scripts of one folder together, likewise; a syntax tree takes a hundred times as much."""

_LOG_NAME = re.compile(r"log|train|run|seed|eval", re.I)
_COUNT_BYTES = 2**21
_LOG_SUFFIXES = {".log", ".out", ".err", ".txt", ".gz", ""}
_SUMMARY_SUFFIXES = {".json", ".jsonl"}
_TEXT_SUFFIXES = {".md", ".py", *_SUMMARY_SUFFIXES, *_LOG_SUFFIXES}


def read_record(path: Path) -> Record:
    """Reads a folder; raises OSError only if the folder itself cannot be listed."""
    os.scandir(path).close()
    was_enabled = gc.isenabled()
    gc.disable()  # The collector's search for cycles in syntax trees, which have none, doubles the time.
    try:
        return _read_folder(Record(path))
    finally:
        if was_enabled:
            gc.enable()


def _read_folder(record: Record) -> Record:
    for entry in _walk(record):
        if len(record.files) >= MAX_FILES:
            text = f"more than {MAX_FILES} files; the rest was not looked at"
            record.problems.append(warning("many-files", text))
            break
        record.files.append(entry)
    record.log_part_bytes = _share_of_logs(record.files)
    for entry in sorted(record.files, key=lambda e: (not is_readme(e), e.name.count("/"), e.name)):
        _take(record, entry)
    _find_submission(record)
    _name_seeds(record)
    record.track = _track(record)
    return record


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


def _is_log(entry: Entry) -> bool:
    name = PurePosixPath(entry.name).name.lower()
    if entry.suffix == ".gz":
        return PurePosixPath(name.removesuffix(".gz")).suffix in _LOG_SUFFIXES - {"", ".gz"}
    other = name.startswith(("requirements", "license")) or is_readme(entry)
    return entry.suffix in _LOG_SUFFIXES and not other


def _share_of_logs(files: list[Entry]) -> int:
    """Bytes of the first part of a log, and of its last, so that all together are MAX_READ_BYTES."""
    left, sizes = MAX_READ_BYTES, sorted(entry.num_bytes for entry in files if _is_log(entry))
    for index, size in enumerate(sizes):
        if size > left // (len(sizes) - index):
            return max(MIN_LOG_PART_BYTES, left // (len(sizes) - index) // 2)
        left -= size
    return MAX_READ_BYTES


def _take(record: Record, entry: Entry) -> None:
    name = PurePosixPath(entry.name).name.lower()
    is_requirements = name.startswith("requirements")
    is_log = _is_log(entry)
    limit = MAX_LOG_BYTES if is_log else MAX_TEXT_BYTES
    if entry.suffix not in _TEXT_SUFFIXES or name.startswith("license"):
        return
    is_script = entry.suffix == ".py"
    most, read = (MAX_SCRIPT_BYTES, record.script_bytes) if is_script else (MAX_READ_BYTES, record.log_bytes)
    if (is_log or is_script) and read + min(entry.num_bytes, 2 * record.log_part_bytes) > most:
        text = f"more than {most:,} bytes of {'scripts' if is_script else 'logs'}; from here on none was read"
        if not any(problem.message == text for problem in record.problems):
            _warn(record, "too-much-text", text, entry.name)
    elif entry.num_bytes + (record.counted_bytes if is_log else 0) > limit:
        if is_log or entry.suffix in (".py", ".json", ".md"):
            text = f"has {entry.num_bytes:,} bytes; above {limit:,} it is not read"
            _warn(record, "file-too-large", text, entry.name)
    elif is_log:
        _take_log(record, entry)
    elif entry.suffix in _SUMMARY_SUFFIXES and entry.num_bytes <= MAX_SUMMARY_BYTES:
        if "submission" not in name and (data := _read(record, entry, 0, entry.num_bytes)) is not None:
            record.summaries.append(parse_log(entry.name, numbered(decode_text(data))))
    elif is_script or entry.suffix == ".md" or is_readme(entry) or is_requirements:
        data = _read(record, entry, 0, entry.num_bytes)
        if data is None:
            return
        if is_script:
            script = read_script(entry.name, data, MAX_SCRIPT_BYTES - record.script_bytes)
            record.script_bytes += script.parsed_bytes
            record.scripts.append(script)
        elif is_requirements and entry.suffix != ".md":
            record.requirements[entry.name] = decode_text(data)
        elif is_readme(entry) and "/" not in entry.name and record.readme is None:
            record.readme = (entry.name, decode_text(data))


def _take_log(record: Record, entry: Entry) -> None:
    part_bytes = record.log_part_bytes
    is_packed = entry.suffix == ".gz"
    whole = is_packed or entry.num_bytes <= 2 * part_bytes
    head = _read(record, entry, 0, min(entry.num_bytes, 2 * part_bytes) if whole else part_bytes)
    if head is not None and is_packed:
        head = _unpack(record, entry, head, 2 * part_bytes)
    if head is None:
        return
    if b"\x00" in head[:65536] and not head.startswith(UTF16_MARKS):
        if entry.suffix in (".log", ".out"):
            _warn(record, "log-binary", "is not text; it was not read", entry.name)
        return
    record.log_bytes += len(head)
    lines = list(numbered(decode_text(head)))
    if not whole:
        record.log_bytes += part_bytes
        record.counted_bytes += entry.num_bytes
        starts = range(0, entry.num_bytes - part_bytes, _COUNT_BYTES)
        parts = (_read(record, entry, start, min(_COUNT_BYTES, starts.stop - start)) for start in starts)
        first = 1 + sum((part or b"").count(b"\n") for part in parts)
        tail = _read(record, entry, starts.stop, part_bytes)
        lines = lines[:-1] + list(numbered(decode_text(tail or b""), first))[1:]
        text = f"has {entry.num_bytes:,} bytes; its first and last {part_bytes:,} were read"
        record.problems.append(info("log-read-in-part", text, Quote(entry.name)))
    log = parse_log(entry.name, lines)
    is_named = log.num_unread and _LOG_NAME.search(PurePosixPath(entry.name).name)
    if log.has_content or log.marks.get("crash") or is_named or entry.suffix in (".log", ".out"):
        record.logs.append(log)


def _unpack(record: Record, entry: Entry, data: bytes, max_bytes: int) -> bytes | None:
    """The first `max_bytes` of what a .gz file holds."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        text = unpacker.decompress(data, max_bytes)
    except zlib.error:
        _warn(record, "log-binary", "is no gzip file; it was not read", entry.name)
        return None
    if not unpacker.eof:
        message = f"is packed; its first {len(text):,} bytes were read"
        record.problems.append(info("log-read-in-part", message, Quote(entry.name)))
    return text


def _read(record: Record, entry: Entry, start: int, length: int) -> bytes | None:
    try:
        return read_part(record.path / entry.name, start, length)
    except ForeignError as failure:
        _warn(record, "file-unreadable", str(failure).removeprefix(f"{record.path}/"), entry.name)
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
        record.submission = read_submission(name, decode_text(data))
    except SubmissionError as failure:
        record.problems.append(error("json-invalid", str(failure), Quote(name)))
        record.submission = Submission(name, {})


def _name_seeds(record: Record) -> None:
    """Takes a seed that the JSON names from the name of a log that states none: `run_1337_final.txt`."""
    claimed = {str(seed) for seed in record.submission.seeds} if record.submission else set()
    for log in record.logs:
        numbers = claimed.intersection(re.findall(r"\d+", PurePosixPath(log.file).stem))
        if seed_of(log) is None and len(numbers) == 1:
            log.facts["seed"] = Fact(float(numbers.pop()), Quote(log.file))


def _track(record: Record) -> Track:
    claimed = record.submission.names.get("track", "").lower() if record.submission else ""
    title = record.readme[1].lstrip()[:120].partition("\n")[0].lower() if record.readme else ""
    places = (record.path.resolve().parent.name.lower(), claimed)
    for text in (*places, title):
        if ("non" in text and "record" in text) or "unlimited" in text:
            return "non-record"
    for text in places:
        if "10min" in text or "10_min" in text or "10-min" in text:
            return "10min"
    return "unknown"
