"""A small finished run folder, with every file that an entry is made of."""

import copy
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

SCRIPT = b'"""A script."""\nimport numpy\n\nprint(numpy.__name__)\n'
LIMIT_BYTES = 16_000_000


def stage(nats: float, documents: dict[str, np.ndarray], **more: Any) -> dict[str, Any]:
    tokens, num_bytes = int(documents["tokens"].sum()), int(documents["bytes"].sum())
    return {
        "val_bpb": nats / math.log(2.0) / num_bytes,
        "val_loss": nats / tokens,
        "tokens_scored": tokens,
        "bytes_scored": num_bytes,
        **more,
    }


def make_documents(seed: int) -> dict[str, np.ndarray]:
    tokens = np.array([40, 25, 35])
    nats = np.array([60.0, 41.5, 50.25]) + 0.125 * seed
    return {"tokens": tokens, "bytes": 3 * tokens, "nats": nats, "ttt_nats": nats - 1.0}


def make_results(seed: int, artifact: bytes, script: bytes = SCRIPT) -> dict[str, Any]:
    documents = make_documents(seed)
    nats, ttt_nats = float(documents["nats"].sum()), float(documents["ttt_nats"].sum())
    sliding = {"windows": "sliding", "context": 256, "stride": 64, "seconds": 5.5}
    return {
        "name": "tiny run",
        "preset": "cpu",
        "seed": seed,
        "config": {"seed": seed, "minutes": None, "steps": 30, "model": {"width": 128, "vocab_size": 512}},
        "model_parameters": 1234567,
        "steps": 30,
        "train_tokens": 122880,
        "tokens_per_second": 2048.0,
        "stages": {
            "last": stage(nats + 9, documents, windows="disjoint"),
            "averaged": stage(nats + 7, documents, windows="disjoint", output="ema"),
            "quantized": stage(nats, documents, **sliding),
            "test_time_trained": stage(ttt_nats, documents, **sliding),
        },
        "bytes": {
            "code": len(script),
            "artifact": len(artifact),
            "total": len(script) + len(artifact),
            "limit": LIMIT_BYTES,
            "parts": {"codes": len(artifact) - 40, "scales": 30},
        },
        "seconds": {"prepare": 1.0, "train": 60.0, "calibrate": 2.5, "pack": 1.5, "score": 12.0},
        "environment": {
            "hardware": "a processor (2 threads)",
            "cores": 2,
            "python": "3.11.7",
            "torch": "2.13.0+cpu",
        },
        "data": {
            "name": "docs",
            "source": "documentation of installed packages",
            "licence": "various",
            "tokenizer_sha256": "a" * 64,
            "validation_sha256": "b" * 64,
            "validation_tokens": 101,
            "validation_bytes": 300,
            "manifest_sha256": "c" * 64,
            "xz_bits_per_byte": 2.5,
            "zstd22_bits_per_byte": 2.6,
        },
        "artifact_sha256": hashlib.sha256(artifact).hexdigest(),
        "scored_artifact_sha256": hashlib.sha256(artifact).hexdigest(),
        "load_seconds": 0.75,
        "code_sha256": hashlib.sha256(script).hexdigest(),
        "toolkit_commit": "0123abc",
        "dollars": 0.25,
    }


def events(seed: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"event": "say", "text": "hello"}]
    for step in range(1, 31):
        lines.append(
            {
                "event": "step",
                "step": f"{step}/30",
                "train_loss": 6.0 / step + 2.0 + 0.01 * seed,
                "lr_scale": 1.0 - step / 30,
                "tokens": 4096 * step,
                "tokens_per_second": 2048,
                "train_seconds": 2.0 * step,
            }
        )
        if step % 10 == 0:
            lines.append({"event": "held_out", "step": step, "tokens": 4096 * step, "bpb": 3.0 - step / 30})
    return lines


def make_run(folder: Path, seed: int = 7, artifact: bytes | None = None, script: bytes = SCRIPT) -> Path:
    """A run folder whose files agree; `edit` changes its results."""
    artifact = bytes(range(200)) * (seed + 1) if artifact is None else artifact
    folder.mkdir(parents=True)
    (folder / "artifact.bin").write_bytes(artifact)
    (folder / "train_gpt.py").write_bytes(script)
    (folder / "run.log").write_text(f"seed:{seed}\nstep step:30/30\n")
    (folder / "run.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events(seed)))
    np.savez(folder / "per_document.npz", **make_documents(seed))
    (folder / "results.json").write_text(json.dumps(make_results(seed, artifact, script)))
    return folder


def audit(folder: Path, passed: bool = True) -> dict[str, Any]:
    """Puts an audit of its artifact into a run folder, and returns it."""
    sha256 = hashlib.sha256((folder / "artifact.bin").read_bytes()).hexdigest()
    found = {"passed": passed, "artifact_sha256": sha256}
    (folder / "audit.json").write_text(json.dumps(found))
    return found


def draw_nothing(curves: object, title: str, path: Path) -> None:
    """Stands in for the picture, which takes most of an entry's time."""
    path.write_bytes(b"")


def edit(folder: Path, **changes: Any) -> Path:
    """Changes keys of a run's results.json, nested ones as `bytes__total`; a value of ... removes the key."""
    path = folder / "results.json"
    results = json.loads(path.read_text())
    for name, value in changes.items():
        *trail, last = name.split("__")
        place = results
        for key in trail:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = copy.deepcopy(value)
    path.write_text(json.dumps(results))
    return folder


def scale_documents(folder: Path, bytes_scored: int) -> None:
    """Gives the run's documents this many bytes, and its stages the scores that follow."""
    with np.load(folder / "per_document.npz") as stored:
        documents = dict(stored)
    documents["bytes"] = np.array([bytes_scored - 2, 1, 1])
    np.savez(folder / "per_document.npz", **documents)
    stages = json.loads((folder / "results.json").read_text())["stages"]
    for name, score in stages.items():
        nats = score["val_loss"] * score["tokens_scored"]
        edit(folder, **{f"stages__{name}": {**score, **stage(nats, documents)}})
