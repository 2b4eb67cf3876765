"""The golden runs: two tiny ones that together use every part from text to score, and what they came to.

`python -m tests.golden_run > tests/golden.json` writes what they come to on this machine.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file

from golf.entry.results import read_results
from golf.pack.artifact import decode_artifact
from golf.pack.container import read_container
from golf.results import Stage
from tests.tiny_samples import tiny_tokenizer, write_tiny_dataset

ROOT = Path(__file__).parents[1]
SIZE = [
    *("--model.num-layers", "4", "--model.width", "32", "--model.num-heads", "2"),
    *("--model.num-kv-heads", "1"),
    *("--model.mlp-hidden", "48", "--model.context", "32", "--train.batch-tokens", "256"),
    *("--train.micro-batch-tokens", "128", "--train.held-out-tokens", "256", "--train.reserve-seconds", "0"),
    *("--device", "cpu", "--eager", "--steps", "12", "--score.stride", "16"),
    # Minifying the script takes seconds, and the figures do not depend on its size.
    *("--pack.calibration-tokens", "512", "--form", "readable"),
]
RUNS = {
    "seed": [
        *("--preset", "seed", "--model.bigram-buckets", "64", "--model.rotary-dims", "8"),
        *("--model.ngram-buckets", "48", "40"),
        *("--ttt.chunk-tokens", "256", "--ttt.batch-sequences", "4"),
    ],
    "frontier": [
        *("--preset", "h100-30min", "--model.parallel-residual-blocks", "1", "--model.recurrence-first", "1"),
        *("--model.recurrence-last", "2", "--model.recurrence", "2", "--model.rotary-dims", "8"),
        *("--ttt.lora.rank", "2", "--ttt.lora.batch-documents", "4", "--ttt.phases", "3"),
        *("--ttt.tilt.table-bits", "12"),
    ],
}


def _digest(arrays: list[bytes]) -> str:
    """One hash of many arrays, whatever their names and their order."""
    return hashlib.sha256(
        "".join(sorted(hashlib.sha256(array).hexdigest() for array in arrays)).encode()
    ).hexdigest()


def plain_environment() -> dict[str, str]:
    """The environment with plain SSE code everywhere, so that one processor's sums are another's."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return os.environ | threads | {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}


def golden_figures(name: str, folder: Path) -> dict[str, Any]:
    """Makes the run `name` in `folder`: hashes of weights and payload, and the scores."""
    write_tiny_dataset(folder / "data", tiny_tokenizer(), num_documents=60)
    command = [sys.executable, str(ROOT / "train_gpt.py"), *SIZE, *RUNS[name]]
    command += ["--data", "data", "--out", "run"]
    finished = subprocess.run(
        command, cwd=folder, env=plain_environment(), capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return run_figures(folder / "run")


def run_figures(run: Path) -> dict[str, Any]:
    """What a finished run's folder came to."""
    stages = read_results(run / "results.json").stages
    return figures_of(run / "weights.safetensors", run / "artifact.bin", stages)


def figures_of(weights_path: Path, artifact: Path, stages: Sequence[Stage]) -> dict[str, Any]:
    """What weights and their artifact are, and their scores."""
    weights = load_file(weights_path)
    decoded, payload = decode_artifact(artifact.read_bytes())[1], read_container(artifact.read_bytes())[1]
    return {
        "weights_sha256": _digest([array.tobytes() for array in weights.values()]),
        "decoded_sha256": _digest([tensor.numpy().tobytes() for tensor in decoded.values()]),
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
        "nats_per_token": {stage.name: stage.tally.nats_per_token for stage in stages},
        "tokens": {stage.name: stage.tally.num_tokens for stage in stages},
        "bytes": {stage.name: stage.tally.num_bytes for stage in stages},
    }


if __name__ == "__main__":
    figures = {}
    for run_name in RUNS:
        with tempfile.TemporaryDirectory() as directory:
            figures[run_name] = golden_figures(run_name, Path(directory))
    print(json.dumps({"torch": torch.__version__.split("+")[0], "runs": figures}, indent=1))
