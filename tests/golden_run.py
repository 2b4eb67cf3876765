"""The golden runs: two tiny ones that together use every part from text to score, and what they came to.

`python -m tests.golden_run` prints what they come to on this machine.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from tests.tiny_samples import tiny_tokenizer, write_tiny_dataset

ROOT = Path(__file__).parents[1]
SIZE = [
    *(
        "--model.num-layers",
        "4",
        "--model.width",
        "32",
        "--model.num-heads",
        "2",
        "--model.num-kv-heads",
        "1",
    ),
    *("--model.mlp-hidden", "48", "--model.context", "32", "--train.batch-tokens", "256"),
    *("--train.micro-batch-tokens", "128", "--train.held-out-tokens", "256", "--train.reserve-seconds", "0"),
    *(
        "--device",
        "cpu",
        "--eager",
        "--steps",
        "12",
        "--score.stride",
        "16",
        "--pack.calibration-tokens",
        "512",
    ),
]
RUNS = {
    "seed": [
        *("--preset", "seed", "--model.bigram-buckets", "64", "--model.rotary-dims", "8"),
        *("--ttt.chunk-tokens", "256", "--ttt.batch-sequences", "4"),
    ],
    "frontier": [
        *("--preset", "h100-30min", "--model.lane-blocks", "1", "--model.loop-first", "1"),
        *("--model.loop-last", "2", "--model.loop-visits", "2", "--model.rotary-dims", "8"),
        *("--ttt.lora.rank", "2", "--ttt.lora.batch-documents", "4", "--ttt.phases", "3"),
        *("--ttt.tilt.table-bits", "12"),
    ],
}


def _digest(arrays: list[bytes]) -> str:
    """One hash of many arrays, whatever their names and their order."""
    return hashlib.sha256(
        "".join(sorted(hashlib.sha256(array).hexdigest() for array in arrays)).encode()
    ).hexdigest()


def golden_figures(name: str, folder: Path) -> dict[str, Any]:
    """Makes the run `name` in `folder`: hashes of its weights and its artifact, and its scores."""
    write_tiny_dataset(folder / "data", tiny_tokenizer(), num_documents=60)
    # Plain SSE code everywhere, so that one processor's sums are another's.
    environment = os.environ | {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    command = [sys.executable, str(ROOT / "train_gpt.py"), *SIZE, *RUNS[name]]
    command += ["--data", "data", "--out", "run"]
    finished = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    run = folder / "run"
    weights = load_file(run / "weights.safetensors")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return {
        "weights_sha256": _digest([array.tobytes() for array in weights.values()]),
        "artifact_sha256": hashlib.sha256((run / "artifact.bin").read_bytes()).hexdigest(),
        "artifact_bytes": (run / "artifact.bin").stat().st_size,
        "nats_per_token": {stage: found["val_loss"] for stage, found in results["stages"].items()},
        "tokens": {stage: found["tokens_scored"] for stage, found in results["stages"].items()},
        "bytes": {stage: found["bytes_scored"] for stage, found in results["stages"].items()},
    }


if __name__ == "__main__":
    for run_name in RUNS:
        with tempfile.TemporaryDirectory() as directory:
            print(json.dumps({run_name: golden_figures(run_name, Path(directory))}, indent=1))
