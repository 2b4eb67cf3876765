"""Encodes arrays with NNCodec (ISO/IEC 15938-17, PyPI `nncodec`) and decodes them; run by another program.

    PYTHON nncodec_worker.py ARRAYS.npz SETTINGS.json DECODED.npz REPORT.json

A program of its own, without the package `golf`: NNCodec asks for versions of numpy and torch that need not
be ours, so PYTHON is the interpreter of an environment that has it. SETTINGS are keyword arguments of
`nncodec.nn.encode`, `qp_per_tensor` by name among them. REPORT has bytes and seconds both ways.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np


def main(arguments: list[str]) -> None:
    """Reads, encodes, decodes, writes."""
    from nncodec import nn  # pyright: ignore[reportMissingImports]

    arrays, settings, decoded, report = map(Path, arguments)
    with np.load(arrays) as held:
        tensors = {name: held[name] for name in held.files}
    given = {"results": str(report.parent), "verbose": False, **json.loads(settings.read_text())}
    began = time.perf_counter()
    stream = nn.encode(tensors, given)
    encoded = time.perf_counter()
    read = nn.decode(stream, given)
    seconds = {"encode_seconds": encoded - began, "decode_seconds": time.perf_counter() - encoded}
    outputs = {name: np.asarray(read[name]) for name in tensors}
    np.savez(decoded, allow_pickle=False, **outputs)
    report.write_text(json.dumps({"bytes": len(stream), **seconds}))


if __name__ == "__main__":
    main(sys.argv[1:])
