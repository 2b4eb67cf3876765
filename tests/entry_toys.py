"""A small finished run folder, with every file that an entry is made of."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

SCRIPT = b'"""A script."""\nimport numpy\n\nprint(numpy.__name__)\n'
LIMIT_BYTES = 16_000_000


def stage(name: str, nats: float, documents: dict[str, np.ndarray], **more: Any) -> dict[str, Any]:
    tokens, num_bytes = int(documents["tokens"].sum()), int(documents["bytes"].sum())
    return {"name": name, "tally": {"nats": nats, "num_tokens": tokens, "num_bytes": num_bytes}, **more}


def make_documents(seed: int) -> dict[str, np.ndarray]:
    tokens = np.array([40, 25, 35])
    nats = np.array([60.0, 41.5, 50.25]) + 0.125 * seed
    return {"tokens": tokens, "bytes": 3 * tokens, "nats": nats, "ttt_nats": nats - 1.0}


def make_results(seed: int, artifact: bytes, script: bytes = SCRIPT) -> dict[str, Any]:
    documents = make_documents(seed)
    nats, ttt_nats = float(documents["nats"].sum()), float(documents["ttt_nats"].sum())
    sliding = {"windows": "sliding", "context": 256, "stride": 64, "seconds": 5.5}
    sha256 = hashlib.sha256(artifact).hexdigest()
    environment = {
        "hardware": "a processor (2 threads)",
        "cores": 2,
        "python": "3.11.7",
        "torch": "2.13.0+cpu",
    }
    return {
        "version": 2,
        "name": "tiny run",
        "preset": "cpu",
        "seed": seed,
        "config": {"seed": seed, "minutes": None, "steps": 30, "model": {"width": 128, "vocab_size": 512}},
        "training": {
            "model_parameters": 1234567,
            "steps": 30,
            "train_tokens": 122880,
            "tokens_per_second": 2048.0,
            "final_progress": 1.0,
            "epochs": 0.5,
            "micro_batch_tokens": 4096,
            "attention": ["math"],
            "kernels": "torch",
        },
        "averaging": {"output": "ema", "held_out_bpb": {"last": 2.1, "ema": 2.0}},
        "packing": {
            "code_bytes": len(script),
            "artifact_bytes": len(artifact),
            "limit_bytes": LIMIT_BYTES,
            "code_sha256": hashlib.sha256(script).hexdigest(),
            "artifact_sha256": sha256,
            "parts": {"codes": len(artifact) - 40, "scales": 30},
        },
        "scores": {
            "stages": [
                stage("last", nats + 9, documents, windows="disjoint"),
                stage("averaged", nats + 7, documents, windows="disjoint", output="ema"),
                stage("quantized", nats, documents, **sliding),
                stage("test_time_trained", ttt_nats, documents, **sliding),
            ],
            "artifact_bytes": len(artifact),
            "artifact_sha256": sha256,
            "validation_sha256": "b" * 64,
            "compute_dtype": None,
            "environment": environment,
            "load_seconds": 0.75,
            "version": 2,
        },
        "seconds": {"prepare": 1.0, "train": 60.0, "calibrate": 2.5, "pack": 1.5, "score": 12.0},
        "environment": environment,
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


def place_of(value: Any, key: str) -> Any:
    """The part of nested JSON by a key, of stages by their name."""
    if isinstance(value, list):
        return next(number for number, item in enumerate(value) if item["name"] == key)
    return key


def change(results: dict[str, Any], changes: dict[str, Any]) -> None:
    """Changes keys, nested ones as `packing__code_bytes`; a value of ... removes the key."""
    for name, value in changes.items():
        *trail, last = name.split("__")
        place: Any = results
        for key in trail:
            place = place[place_of(place, key)]
        if value is ...:
            del place[place_of(place, last)]
        else:
            place[place_of(place, last)] = copy.deepcopy(value)


def edit(folder: Path, **changes: Any) -> Path:
    """Changes keys of a run's results.json."""
    path = folder / "results.json"
    results = json.loads(path.read_text())
    change(results, changes)
    path.write_text(json.dumps(results))
    return folder


def scale_documents(folder: Path, num_bytes: int) -> None:
    """Gives the run's documents this many bytes, and its stages the tallies that follow."""
    with np.load(folder / "per_document.npz") as stored:
        documents = dict(stored)
    documents["bytes"] = np.array([num_bytes - 2, 1, 1])
    np.savez(folder / "per_document.npz", **documents)
    for name in ("last", "averaged", "quantized", "test_time_trained"):
        edit(folder, **{f"scores__stages__{name}__tally__num_bytes": num_bytes})
