"""Record folders made to break whoever reads them: each function makes one in an empty folder."""

import base64
import bz2
import io
import json
import lzma
import os
import random
import resource
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from record_toys import make_record

from golf.__main__ import main

FILES = ("submission.json", "results.json", "audit.json", "per_document.npz", "train_seed42.log")
SCRIPTS = ("train_gpt.py", "README.md")

Spoil = Callable[[Path], None]


def replace(name: str, content: bytes | str | Callable[[], bytes | str]) -> Spoil:
    def spoil(folder: Path) -> None:
        data = content() if callable(content) else content
        (folder / name).write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)

    return spoil


def odd_file(name: str, kind: str) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "zero":
            path.symlink_to("/dev/zero")
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind == "folder":
            path.mkdir()
        else:
            with open(path, "wb") as file:
                file.truncate(1 << 32)

    return spoil


def npz(header: bytes | None = None, **arrays: np.ndarray) -> bytes:
    """An .npz of these arrays; with a `header` one more whose header it is."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    if header is not None:
        with zipfile.ZipFile(file, "a") as archive:
            start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
            archive.writestr("nats.npy", start + header)
    return file.getvalue()


def many_entries() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(40_000):
            archive.writestr(f"{number}.npy", b"")
    return file.getvalue()


def zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("nats.npy", bytes(300 << 20))
    return file.getvalue()


def packed(data: bytes) -> str:
    return f"import base64\nexec({base64.b85encode(data)!r})\n"


def bombs(folder: Path) -> None:
    data = bz2.compress(b"import os\n" + bytes(50 << 20))
    for number in range(30):
        text = "".join(f"a{i} = {base64.b85encode(data + bytes([i]))!r}\n" for i in range(20))
        (folder / f"part{number}.py").write_text(f"exec('x')\n{text}")


def long_scripts(folder: Path) -> None:
    source = "".join(f"def f{n}(a, b):\n    return a + b * {n}\n\n" for n in range(22_000))
    for number in range(12):
        (folder / f"long{number}.py").write_text(source[: (1 << 20) - 100].rpartition("\n\n")[0])


def many_files(folder: Path) -> None:
    for number in range(4000):
        (folder / f"f{number}.txt").write_text("val_bpb: 1.0\n")


def deep_folders(folder: Path) -> None:
    for _ in range(200):
        folder = folder / "d"
        folder.mkdir()
        (folder / "train.log").write_text("val_bpb: 1.0\n")


def big_logs(folder: Path) -> None:
    line = "step:{0}/20000 val_loss:2.07{0} val_bpb:1.2{0} train_time:{0}ms step_avg:1ms\n"
    text = "".join(line.format(number) for number in range(60_000))
    for number in range(12):
        (folder / f"train_seed{number}.log").write_text(text)


def odd_names(folder: Path) -> None:
    for name in (b"\xff\xfe.log", b"a\x1b[2Jb.log", "\u202egnp.py".encode(), b"a\nb.json", b"x" * 250):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(b"seed: 42\nval_bpb: 1.0\n")


def seeds(**figures: object) -> str:
    return json.dumps({"val_bpb": 1.0, "seed_results": {str(n): figures for n in range(20_000)}}, indent=1)


NESTED = {"list": "[" * 200_000, "object": '{"a":' * 200_000, "closed": "[" * 900 + "]" * 900}
JSON = {
    **NESTED,
    "empty": "",
    "text": "no JSON\x1b[2J",
    "an array": "[]",
    "a number": "1e400",
    "null": "null",
    "NaN": '{"val_bpb": NaN, "seeds": {"42": NaN}, "format": "golf-entry-1"}',
    "twice": '{"val_bpb": 1.0, "val_bpb": 2.0, "format": "golf-entry-1", "format": "x"}',
    "types": '{"val_bpb": [1], "name": {}, "author": 3, "seeds": "x", "seed_results": 7, "date": []}',
    "no score": '{"name": "x", "author": "a", "github_id": "g"}',
    "escapes": json.dumps({"val_bpb": 1.0, "name": "\x1b[2J\u202e\ud800<script>", "author": "\x07\n"}),
    "placeholders": '{"val_bpb": 1e9, "bytes_total": -1, "train_seconds": 0, "seeds": [-1]}',
    "huge numbers": f'{{"val_bpb": 1e308, "bytes_total": {"9" * 4000}, "seeds": [{"9" * 9}]}}',
    "not UTF-8": b'{"val_bpb": 1.0, "name": "\xff\xfe"}',
    "own, no results": '{"format": "golf-entry-1", "seeds": {"42": {}}, "val_bpb": 1.0}',
    "own, wrong results": '{"format": "golf-entry-1", "seeds": {"x": [], "1": 3}, "val_bpb": 1.0}',
    "old results": '{"format": "golf-entry-1", "seeds": {"1": {"bytes": [], "stages": 3}}, "val_bpb": 1.0}',
    "many keys": json.dumps({f"k{n}": n for n in range(60_000)}),
}
HEADER = b"{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n"
ARRAYS = {
    "no archive": b"PK\x03\x04 none",
    "7 TiB": npz(HEADER % (b"<f8", b"(999999999999,)"), bytes=np.ones(3)),
    "objects": npz(HEADER % (b"|O", b"(1,)"), bytes=np.ones(3)),
    "two axes": npz(nats=np.ones((3, 3)), bytes=np.ones((3, 3)), tokens=np.ones((3, 3))),
    "text": npz(nats=np.array(["a", "b"]), bytes=np.ones(2)),
    "NaN": npz(nats=np.full(3, np.nan), bytes=np.ones(3), tokens=np.ones(3)),
    "lengths": npz(nats=np.ones(3), bytes=np.ones(4), tokens=np.ones(5)),
    "negative": npz(HEADER % (b"<f8", b"(-1,)"), bytes=np.ones(3)),
    "parentheses": npz(b"(" * 60_000, bytes=np.ones(3)),
    "bomb": zip_bomb,
    "entries": many_entries,
}
TEXTS = {
    "1,000 elif": "if a:\n    pass\n" + "".join(f"elif a == {n}:\n    pass\n" for n in range(1000)),
    "operators": "a = " + "-" * 300_000 + "1",
    "parentheses": "a = " + "(" * 100_000,
    "with": "".join(" " * n + "with a:\n" for n in range(99)) + " " * 99 + "import os\n",
    "nul": "a\x00b",
    "encoding": b"# -*- coding: no-such -*-\n\xff",
    "lzma bomb": lambda: packed(lzma.compress(b"import os\n" + bytes(200 << 20))),
    "zlib bomb": lambda: packed(zlib.compress(b"import os\n" + bytes(200 << 20))),
    "one line": "x = 1;" * 150_000,
    "noise": random.Random(0).randbytes(1 << 20),
}
LOGS = {
    "one line": "val_bpb: 1.0 " * 300_000,
    "numbers": "9" * 3_000_000,
    "dots": "val_bpb:" + "." * 3_000_000,
    "braces": "{" * 3_000_000,
    "escapes": "seed: 42\nval_bpb: 1.0\x1b[2J\u202e\n" * 10_000,
    "not UTF-8": b"seed: 42\nval_bpb:\xff\xfe 1.0\n" * 10_000,
    "nan": "seed: 42\nfinal val_loss:nan val_bpb:nan\nfinal val_loss:inf val_bpb:1e309\n",
    "source": "import os\n" + "x = {'a': 1}\n" * 100_000,
    "half a UTF-16": b"\xff\xfea",
    "greek": "seed: 42\nval_bpb: 1.0 β 🏁\nTotal submission size β: 17000000 bytes\n",
}


def hostile() -> Iterator[tuple[str, Spoil]]:
    """Names and makers of all folders."""
    for name in FILES + SCRIPTS:
        for kind in ("pipe", "zero", "loop", "folder", "sparse"):
            yield f"{name} is a {kind}", odd_file(name, kind)
    for name in ("submission.json", "results.json", "audit.json"):
        for kind, data in JSON.items():
            if name != "audit.json" or kind in NESTED or kind in ("an array", "types"):
                yield f"{name}: {kind}", replace(name, data)
    for kind, data in ARRAYS.items():
        yield f"arrays: {kind}", replace("per_document.npz", data)
    for kind, data in TEXTS.items():
        yield f"script: {kind}", replace("train_gpt.py", data)
    for kind, data in LOGS.items():
        yield f"log: {kind}", replace("train_seed42.log", data)
    yield "20,000 seeds", replace("submission.json", lambda: seeds(val_bpb=1.0, steps=3))
    yield "20,000 seeds in a line", replace("submission.json", lambda: seeds(val_bpb=1.0).replace("\n", ""))
    for maker in (bombs, long_scripts, many_files, deep_folders, big_logs, odd_names):
        yield maker.__name__.replace("_", " "), maker


HOSTILE = dict(hostile())


def make_hostile(name: str, root: Path) -> Path:
    """The folder of this name, under a track of its own records folder."""
    folder = make_record(root)
    HOSTILE[name](folder)
    return folder


def measure(arguments: list[str]) -> tuple[int, float, float, str]:
    """`python -m golf` in a forked process: exit code, CPU seconds, additional megabytes, standard error."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.dup2(writer, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 26, 1 << 26))
        before = resource.getrusage(resource.RUSAGE_SELF)
        try:
            code = main(arguments)
        except BaseException as error:
            code = f"Traceback: {error!r}"
        after = resource.getrusage(resource.RUSAGE_SELF)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        megabytes = (after.ru_maxrss - before.ru_maxrss) / 1024
        print("\n" + json.dumps([code, seconds, megabytes]), file=sys.stderr, flush=True)
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        *said, measured = file.read().decode(errors="replace").split("\n[")
    os.waitpid(child, 0)
    code, seconds, megabytes = json.loads("[" + measured)
    return code, seconds, megabytes, "".join(said).strip()
