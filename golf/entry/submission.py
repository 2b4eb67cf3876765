"""submission.json: who submits, and an entry's figures over its seeds, every unit fixed."""

import datetime
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.entry.results import EntryError, read_json
from golf.entry.runs import RECORD_TRACKS
from golf.results import Results
from golf.system.files import write_bytes

SUBMISSION_NAME = "submission.json"

_NOT_VERSIONS = ("hardware", "device", "processor", "cores", "threads", "platform")


@dataclass(frozen=True)
class Identity:
    """Who submits."""

    author: str = "parameter-golf-toolkit"
    github_id: str = "parameter-golf-toolkit"


def read_identity(project_root: Path) -> Identity:
    """Author and GitHub id from the project's own submission.json; neutral ones where there is none."""
    path = project_root / SUBMISSION_NAME
    if not path.is_file():
        return Identity()
    stored = read_json(path)
    for key in ("author", "github_id"):
        if not isinstance(stored.get(key), str):
            raise EntryError(f"{path}: {key} is {stored.get(key)!r}; expected a text")
    return Identity(stored["author"], stored["github_id"])


def versions(results: Results) -> dict[str, str]:
    """Library and language versions from a run's environment."""
    found = results.environment.items()
    return {name: value for name, value in found if name not in _NOT_VERSIONS and isinstance(value, str)}


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation, which a single value does not have."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def submission(
    runs: Sequence[Results], identity: Identity, blurb: str, track: str, date: datetime.date
) -> dict[str, Any]:
    """The fields of submission.json.

    val_bpb is bits per byte and val_loss nats per token, means over the seeds with sample deviations (null
    for one seed); bytes, their artifact_sha256, and seconds are those of the largest artifact and of the
    slowest seed.
    """
    finals = [run.final.tally for run in runs]
    before = [stage.tally.bits_per_byte for run in runs if (stage := run.before_quantization)]
    val_bpb, val_bpb_std = mean_and_deviation([tally.bits_per_byte for tally in finals])
    val_loss, val_loss_std = mean_and_deviation([tally.nats_per_token for tally in finals])
    largest = max(runs, key=lambda run: run.packing.total_bytes)
    return {
        "author": identity.author,
        "github_id": identity.github_id,
        "name": runs[0].name,
        "blurb": blurb,
        "date": date.isoformat(),
        "track": track,
        "val_loss": val_loss,
        "val_bpb": val_bpb,
        "val_loss_std": val_loss_std,
        "val_bpb_std": val_bpb_std,
        "seeds": [run.seed for run in runs],
        "seed_results": {str(run.seed): _seed_result(run) for run in runs},
        "pre_quant_val_bpb": statistics.fmean(before) if len(before) == len(runs) else None,
        **_sizes(largest),
        "train_seconds": max(run.train_seconds for run in runs),
        "eval_seconds": max(run.eval_seconds for run in runs),
        "tokens_scored": finals[0].num_tokens,
        "bytes_scored": finals[0].num_bytes,
        "hardware": runs[0].environment.get("hardware", "unknown"),
        "versions": versions(runs[0]),
        "toolkit_commit": runs[0].toolkit_commit,
    }


def _sizes(run: Results) -> dict[str, Any]:
    return {
        "bytes_total": run.packing.total_bytes,
        "bytes_model": run.packing.artifact_bytes,
        "bytes_code": run.packing.code_bytes,
        "artifact_sha256": run.packing.artifact_sha256,
    }


def _seed_result(run: Results) -> dict[str, Any]:
    before = run.before_quantization
    return {
        "val_bpb": run.final.tally.bits_per_byte,
        "val_loss": run.final.tally.nats_per_token,
        "pre_quant_val_bpb": before.tally.bits_per_byte if before else None,
        **_sizes(run),
        "train_seconds": run.train_seconds,
        "eval_seconds": run.eval_seconds,
        "steps": run.training.steps,
    }


def best_entry(records_root: Path) -> Path | None:
    """The committed entry with the lowest bits per byte; None where there is none yet."""
    entries = [
        path.parent for track in RECORD_TRACKS for path in records_root.glob(f"{track}/*/{SUBMISSION_NAME}")
    ]
    scores = {
        entry: json.loads((entry / SUBMISSION_NAME).read_text("utf-8"))["val_bpb"]
        for entry in sorted(entries)
    }
    return min(scores, key=scores.__getitem__) if scores else None


def adopt_best(records_root: Path) -> Path | None:
    """Makes the submission.json beside `records_root` that of the best entry in it, which is returned."""
    best = best_entry(records_root)
    if best is not None:
        write_bytes(records_root.parent / SUBMISSION_NAME, (best / SUBMISSION_NAME).read_bytes())
    return best
