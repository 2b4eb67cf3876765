"""Scripts read as data: unpacked without running them, parsed, imports listed."""

import base64
import bz2
import json
import lzma
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from golf.check.scripts import MAX_SOURCE_BYTES, VERSIONS, parse_for_versions, read_script

SOURCE = ("import torch\n" + "".join(f"x{i} = {i * i}\n" for i in range(300))).encode()

ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "base85": base64.b85encode,
    "base64": base64.b64encode,
    "ascii85": base64.a85encode,
}
RAW_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9}]
CODECS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "lzma": ("lzma", lzma.compress),
    "alone": ("lzma", lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE)),
    "raw": ("lzma", lambda data: lzma.compress(data, format=lzma.FORMAT_RAW, filters=RAW_FILTERS)),
    "zlib": ("zlib", zlib.compress),
    "zlib-fast": ("zlib", lambda data: zlib.compress(data, 1)),
    "bz2": ("bz2", bz2.compress),
}


def packed(payload: bytes, call: str = "exec(d(%r))") -> bytes:
    return (
        b"import lzma as l,base64 as b\nd=lambda x:l.decompress(b.b85decode(x))\n" + (call % payload).encode()
    )


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("codec", CODECS)
def test_a_packed_script_is_unpacked(encoder: str, codec: str) -> None:
    name, compress = CODECS[codec]
    script = read_script("train_gpt.py", packed(ENCODERS[encoder](compress(SOURCE))))
    assert script.source.encode() == SOURCE
    assert script.codecs == (encoder, name)
    assert script.unpacked_bytes == len(SOURCE)
    assert script.num_bytes < len(SOURCE)
    assert list(script.imports) == ["torch"]


def test_a_payload_in_bytes_or_text_of_one_byte_a_character_is_unpacked() -> None:
    data = lzma.compress(SOURCE)
    assert read_script("a.py", packed(data)).codecs == ("lzma",)
    latin = b"# coding: latin-1\nexec(x('''" + zlib.compress(SOURCE).replace(b"\\", b"\\\\") + b"'''))\n"
    if b"\x00" not in latin and b"\r" not in latin:
        assert read_script("a.py", latin).codecs == ("zlib",)


def test_a_script_packed_twice_is_unpacked_twice() -> None:
    inner = packed(base64.b85encode(lzma.compress(SOURCE + b"#" + bytes(range(97, 123)) * 900)))
    script = read_script("a.py", packed(base64.b64encode(zlib.compress(inner + b"\ndef f():\n pass\n"))))
    assert script.codecs == ("base64", "zlib", "base85", "lzma")
    assert script.source.startswith("import torch")


def test_brotli_is_read_where_it_is_installed_and_named_where_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    brotli = pytest.importorskip("brotli")
    data = b"import brotli\n" + packed(base64.b85encode(brotli.compress(SOURCE)))
    assert read_script("a.py", data).codecs == ("base85", "brotli")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "not installed" in read_script("a.py", data).undecoded


def test_nothing_of_a_script_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    evil = f"import os\nopen({str(mark)!r}, 'w').close()\n" + "x = 1\n" * 400
    data = f"open({str(mark)!r}, 'w').close()\n".encode() + packed(
        base64.b85encode(lzma.compress(evil.encode()))
    )
    assert "open(" in read_script("a.py", data + b"\nexec(1)\n").source
    assert not mark.exists()


def test_a_small_payload_that_unpacks_to_gigabytes_is_stopped() -> None:
    bomb = zlib.compress(b"import os\n" + b"\x00" * 200_000_000, 9)
    tracemalloc.start()
    script = read_script("a.py", packed(base64.b64encode(bomb)))
    assert tracemalloc.get_traced_memory()[1] < 40 * MAX_SOURCE_BYTES
    tracemalloc.stop()
    assert script.unpacked_bytes <= MAX_SOURCE_BYTES


@pytest.mark.parametrize(
    "data", [b"x = 1\n", b"exec('1')\n", b"exec(" + repr("a" * 500).encode() + b")\n", b"\x00"]
)
def test_what_is_not_packed_is_left_alone(data: bytes) -> None:
    assert read_script("a.py", data).codecs == ()


SPECIMENS = {
    "plain": "y = f'{1 + 1!r:>{3}} {x=} {d[\"k\"]:,} {{x}} {a == b} {a != b} {x[1:2]} {(lambda q: q)(1)}'\n",
    "match": "match x:\n    case 1:\n        pass\n",
    "with in brackets": "with (open('a') as f, open('b') as g):\n    pass\n",
    "walrus": "print(y := 1)\n",
    "quotes that are no f-string": "a = 'it''s'  # f'{x['\n",
    "except star": "try:\n    pass\nexcept* ValueError:\n    pass\n",
    "star in brackets in index": "x[(*a,)]\n",
    "deep but old": "y = f\"{f'{1}'}\"\n",
    "triple": 'a = f"""{x["k"]}\n{y}"""\n',
    "type": "type X = int\n",
    "generic": "def f[T](x: T) -> T:\n    return x\n",
    "generic class": "class C[T]:\n    pass\n",
    "broken": "def f(:\n",
    "em dash": "x = 1 \u2014 2\n",
    "unclosed": "x = 'abc\n",
    "print statement": "print 1\n",
}


TESTED = [f"{major}.{minor}" for major, minor in VERSIONS if (major, minor) <= sys.version_info[:2]]


@pytest.mark.parametrize("name", SPECIMENS)
def test_the_pythons_that_reject_a_source_are_those_ruff_names(name: str) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.is_file():
        pytest.skip("ruff is not installed")
    rejected = []
    for version in TESTED:
        target = "py" + version.replace(".", "")
        options = ["--isolated", "--no-cache", "--select", "E9", "--target-version", target]
        run = subprocess.run(
            [ruff, "check", *options, "--output-format", "json", "-"],
            input=SPECIMENS[name],
            capture_output=True,
            text=True,
            check=False,
        )
        if any("syntax" in str(found["code"]) or found["code"] is None for found in json.loads(run.stdout)):
            rejected.append(version)
    verdict = parse_for_versions(SPECIMENS[name].encode())
    assert verdict.rejected_by == tuple(rejected)
    assert verdict.parses == (TESTED[-1] not in rejected)


@pytest.mark.parametrize(
    "source",
    ["x = {'b': 1}\ny = f'{x['b']}'\n", "y = f'{\"\\n\".join([])}'\n", "y = f'{f'{1}'}'\n", "type X = int\n"],
)
def test_a_source_of_python_3_12_is_accepted_there_and_left_open_by_older_pythons(source: str) -> None:
    verdict = parse_for_versions(source.encode())
    assert verdict.parses == (sys.version_info >= (3, 12))
    assert verdict.maybe_newer == (sys.version_info < (3, 12))


def test_broken_code_is_not_left_open() -> None:
    verdict = parse_for_versions(b"def f(:\n")
    assert not verdict.parses and not verdict.maybe_newer and verdict.line == 1


def test_a_byte_order_mark_does_not_stop_a_parse_and_null_bytes_do() -> None:
    assert parse_for_versions(b"\xef\xbb\xbfx = 1\n").parses
    assert not parse_for_versions(b"x = 1\x00\n").parses


def test_a_source_nested_too_deeply_is_rejected_and_stops_nothing() -> None:
    assert not parse_for_versions(b"x = " + b"(" * 5000 + b")" * 5000).parses


def test_imports_that_loading_needs_are_listed_without_guarded_and_local_ones() -> None:
    source = b"""
import numpy as np, os.path
from torch.nn import functional
from . import sibling
try:
    import flash_attn
except ImportError:
    import fallback
else:
    import always
def f():
    import later
if True:
    import sometimes
with open("x") as g:
    import inside
class C:
    import body
"""
    assert read_script("a.py", source).imports == {
        "numpy": 2,
        "os": 2,
        "torch": 3,
        "always": 10,
        "inside": 16,
        "body": 18,
    }
