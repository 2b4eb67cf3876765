"""A sound record folder of three seeds in the late dialect of the public logs, and ways to spoil it."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

TOKENS = 40_540_160
BYTES = 151_078_222
CODE = b'"""Trains."""\nimport numpy\n\nprint(numpy.__name__)\n' + b"# and so on\n" * 100
SEEDS = {42: 1.08079352, 314: 1.08103103, 999: 1.08118408}
MODEL_BYTES = {42: 15_900_000, 314: 15_900_111, 999: 15_900_222}


def nats(bpb: float, tokens: int = TOKENS, num_bytes: int = BYTES) -> float:
    """Nats per token that make `bpb`."""
    return bpb * math.log(2) * num_bytes / tokens


def log_text(seed: int, bpb: float, model_bytes: int, code_bytes: int = len(CODE), **more: Any) -> str:
    """A log; `more` replaces: tokens, train_ms, eval_ms, lr, before (lines above), after (lines below)."""
    tokens = more.get("tokens", TOKENS)
    num_bytes = more.get("num_bytes", BYTES)

    def score(value: float, digits: int = 8, colon: str = ":") -> str:
        loss = nats(value, tokens, num_bytes)
        return f"val_loss{colon}{loss:.{digits}f} val_bpb{colon}{value:.{digits}f}"

    train_ms = more.get("train_ms", 588_047)
    lines = [
        *more.get("before", []),
        "Hyperparameters:",
        f"  matrix_lr: {more.get('lr', 0.022)}",
        "  num_layers: 11",
        f"  run_id: run-{seed}",
        f"  seed: {seed}",
        f"  world_size: {more.get('world_size', 8)}",
        "train_shards: 128",
        f"val_tokens: {tokens}",
        "model_params:35944536",
        f"0/20000 {score(3.4879, 4, ': ')}",
        f"4550/20000 {score(1.0886, 4, ': ')}",
        f"stopping_early: wallclock_cap train_time: {train_ms}ms step: {4000 + seed}/20000",
        f"pre-quantization post-ema {score(1.0873)} eval_time:7440ms",
        "Serialized model: 135431033 bytes",
        f"Code size: {code_bytes} bytes",
        f"Serialized model quantized+brotli: {model_bytes} bytes",
        f"Total submission size quantized+brotli: {model_bytes + code_bytes} bytes",
        f"quantized {score(bpb + 0.019)} eval_time:25515ms",
        f"quantized_ttt {score(bpb)} eval_time:{more.get('eval_ms', 366_525)}ms",
        *more.get("after", []),
    ]
    return "\n".join(lines) + "\n"


def submission() -> dict[str, Any]:
    """The JSON that belongs to the logs."""
    values = list(SEEDS.values())
    mean = statistics.fmean(values)
    return {
        "author": "somebody",
        "github_id": "somebody",
        "name": "a record",
        "date": "2026-04-09",
        "track": "10min_16mb",
        "val_loss": round(nats(mean), 8),
        "val_bpb": round(mean, 8),
        "val_bpb_std": round(statistics.stdev(values), 8),
        "seeds": list(SEEDS),
        "seed_results": {
            str(seed): {"val_bpb": bpb, "artifact_bytes": MODEL_BYTES[seed] + len(CODE)}
            for seed, bpb in SEEDS.items()
        },
        "bytes_total": max(MODEL_BYTES.values()) + len(CODE),
        "bytes_code": len(CODE),
    }


def make_record(parent: Path, track: str = "track_10min_16mb", **json_changes: Any) -> Path:
    """Writes a sound folder under `parent`/`track`; `json_changes` go into submission.json."""
    folder = parent / track / "2026-04-09_sound"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# A record\n")
    (folder / "train_gpt.py").write_bytes(CODE)
    for seed, bpb in SEEDS.items():
        (folder / f"train_seed{seed}.log").write_text(log_text(seed, bpb, MODEL_BYTES[seed]))
    write_json(folder, **json_changes)
    return folder


def write_json(folder: Path, **changes: Any) -> None:
    """Writes submission.json with `changes`; a value of ... deletes its key."""
    raw = submission() | changes
    raw = {key: value for key, value in raw.items() if value is not ...}
    (folder / "submission.json").write_text(json.dumps(raw, indent=2))


def rewrite_logs(folder: Path, **more: Any) -> None:
    """Writes the logs anew with `more`."""
    for seed, bpb in SEEDS.items():
        (folder / f"train_seed{seed}.log").write_text(log_text(seed, bpb, MODEL_BYTES[seed], **more))
