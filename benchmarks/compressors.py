"""Of `benchmarks.cpu_record`: what general compressors make of a text, alone and after other text.

After other text counts what the text adds: the bytes of both less the bytes of the other alone. Nobody could
decompress the text without the other one. zstd takes it as part of its window (--long=27): as a dictionary
of 14 MB at level 22 it takes minutes.
"""

import lzma
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import zstandard

from golf.system.cli import escape_text

MAX_PROGRAM_SECONDS = 1800.0
"""Of a compressor that is a program of its own."""
PPMD_ORDER = 32
PPMD_MEBIBYTES = 1024
SEVEN_ZIP_ORDER = 8
"""7-Zip gives PPMd 16 bytes of memory a byte of text at most, and sizes can be subtracted only where that is
never used up: at order 8 the differences are those of pyppmd (after 0, 0.1, 1, 2 and 4 MB)."""
FIRST_BYTES = 1 << 17
"""Of the text before, at first; then twice as much each time."""
MIN_GROWTH = 1.1
"""A compressor is at the end of its seconds when it could read less than this many times as much."""

Compress = Callable[[bytes], int]
"""The size in bytes of a compressed text."""


class CompressorError(ValueError):
    """A compressor failed or took too long."""


@dataclass(frozen=True)
class Compressor:
    """A compressor at its strongest level; `made_by` is what it is part of, or how to install that."""

    name: str
    made_by: str
    compress: Compress | None
    """None where it is not installed."""


@dataclass(frozen=True)
class Compressed:
    """A text as compressed after another one."""

    before_bytes: int
    before_compressed_bytes: int
    text_bytes: int
    compressed_bytes: int
    """What the text adds."""
    seconds: float
    """Of compressing both once."""

    @property
    def bpb(self) -> float:
        """Bits per byte of the text."""
        return 8 * self.compressed_bytes / self.text_bytes


def zstd_size(text: bytes) -> int:
    """zstd -22 --ultra --long=27."""
    parameters = zstandard.ZstdCompressionParameters.from_level(22, window_log=27, enable_ldm=True)
    return len(zstandard.ZstdCompressor(compression_params=parameters).compress(text))


def xz_size(text: bytes) -> int:
    """xz -9: a window of 64 MiB."""
    return len(lzma.compress(text, preset=9))


def program_size(command: list[str], text: bytes) -> int:
    """Size of the file `{out}` that a command makes of the file `{in}`; CompressorError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "text", Path(folder) / "compressed.7z"
        source.write_bytes(text)
        line = [part.replace("{in}", str(source)).replace("{out}", str(target)) for part in command]
        try:
            done = subprocess.run(line, capture_output=True, cwd=folder, timeout=MAX_PROGRAM_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise CompressorError(f"took more than {MAX_PROGRAM_SECONDS:,.0f} s") from error
        except OSError as error:
            raise CompressorError(f"{line[0]} cannot be run: {error.strerror}") from error
        if done.returncode or not target.is_file():
            said = (done.stderr or done.stdout).decode(errors="replace").split("\n")
            last = next((part.strip() for part in reversed(said) if part.strip()), "")
            raise CompressorError(escape_text(f"failed with exit code {done.returncode}: {last}"))
        return target.stat().st_size


def find_compressors() -> tuple[Compressor, ...]:
    """All that are compared, those that are not installed as well."""
    return (
        Compressor("zstd -22", f"zstandard {version('zstandard')}", zstd_size),
        Compressor("xz -9", "Python's lzma", xz_size),
        _brotli(),
        _ppmd(),
        _cmix(),
    )


def _brotli() -> Compressor:
    if find_spec("brotli") is None:
        return Compressor("brotli -11", "pip install brotli", None)
    brotli: Any = import_module("brotli")
    return Compressor(
        "brotli -11",
        f"brotli {version('brotli')}",
        lambda text: len(brotli.compress(text, quality=11, lgwin=24)),
    )


def _ppmd() -> Compressor:
    """PPMd variant H, by the package pyppmd or by 7-Zip, whose archive counts whole."""
    if find_spec("pyppmd") is not None:
        pyppmd: Any = import_module("pyppmd")

        def compress(text: bytes) -> int:
            encoder = pyppmd.Ppmd7Encoder(PPMD_ORDER, PPMD_MEBIBYTES << 20)
            return len(encoder.encode(text)) + len(encoder.flush())

        return Compressor("PPMd", f"pyppmd {version('pyppmd')}, order {PPMD_ORDER}", compress)
    program = next(filter(None, map(shutil.which, ("7z", "7zz", "7za"))), None)
    if program is None:
        return Compressor("PPMd", "apt-get install p7zip-full, or pip install pyppmd", None)

    method = f"-m0=PPMd:o={SEVEN_ZIP_ORDER}:mem={PPMD_MEBIBYTES}m"
    command = [program, "a", "-bd", "-y", "-t7z", "-mmt=1", method, "{out}", "{in}"]
    made_by = f"{Path(program).name}, order {SEVEN_ZIP_ORDER}"
    return Compressor("PPMd", made_by, lambda text: program_size(command, text))


def _cmix() -> Compressor:
    program = shutil.which("cmix")
    if program is None:
        return Compressor("cmix", "github.com/byronknoll/cmix", None)
    command = [program, "-c", "{in}", "{out}"]
    return Compressor("cmix", "cmix", lambda text: program_size(command, text))


def measure(compress: Compress, before: bytes, text: bytes, timer: Callable[[], float]) -> Compressed:
    """Compresses `text` after `before`, which may be empty."""
    started = timer()
    both = compress(before + text)
    seconds = timer() - started
    alone = compress(before) if before else 0
    return Compressed(len(before), alone, len(text), both - alone, seconds)


def grow(
    compress: Compress, training: bytes, text: bytes, seconds: float, timer: Callable[[], float]
) -> list[Compressed]:
    """`text` alone, however long that takes, then after more and more of `training` while `seconds` last."""
    found = [measure(compress, b"", text, timer)]
    size = min(FIRST_BYTES, len(training))
    while found[-1].before_bytes < len(training) and found[-1].seconds < seconds:
        one = measure(compress, training[:size], text, timer)
        if one.seconds > seconds:
            break
        found.append(one)
        growth = min(2.0, 0.9 * seconds / max(one.seconds, 1e-9))
        if growth < MIN_GROWTH:
            break
        size = min(len(training), int(size * growth))
    return found
