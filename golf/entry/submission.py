"""submission.json: who submits, and an entry's figures over its seeds, every unit fixed."""

import datetime
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from golf.data.reference import text_of_size
from golf.entry.results import EntryError, read_entry_results, read_json
from golf.entry.runs import RECORD_TRACKS
from golf.results import Results
from golf.run_folder import EntryFolder

SUBMISSION_NAME = "submission.json"
TOOLKIT = "parameter-golf-toolkit"
"""Who submits where nobody says so."""

_NOT_VERSIONS = ("hardware", "device", "processor", "cores", "threads", "platform")


def find_identity(project_root: Path, author: str = "", github_id: str = "") -> dict[str, str]:
    """`author` and `github_id` of an entry.

    Each is what was asked for, else that of the project's own submission.json, else git's setting user.name
    or github.user. Where neither says who submits it is the toolkit. EntryError for a submission.json that
    is damaged.
    """
    path = project_root / SUBMISSION_NAME
    stored: dict[str, Any] = {"author": TOOLKIT, "github_id": TOOLKIT}
    if path.is_file():
        stored = read_json(path)
    found = {}
    for key, asked, setting in (("author", author, "user.name"), ("github_id", github_id, "github.user")):
        own = stored.get(key)
        if not isinstance(own, str):
            raise EntryError(f"{path}: {key} is {own!r}; expected a text")
        found[key] = asked or (own if own != TOOLKIT else _git_setting(project_root, setting))
    if not found["author"]:
        return {"author": TOOLKIT, "github_id": found["github_id"] or TOOLKIT}
    return {"author": found["author"], "github_id": found["github_id"] or "unknown"}


def _git_setting(folder: Path, name: str) -> str:
    """A setting of git as it holds in a folder; empty where there is none, or no git."""
    try:
        command = ["git", "config", "--get", name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def versions(results: Results) -> dict[str, str]:
    """Library and language versions from a run's environment."""
    found = results.environment.items()
    return {name: value for name, value in found if name not in _NOT_VERSIONS and isinstance(value, str)}


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation, which a single value does not have."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def submission(
    runs: Sequence[Results], identity: dict[str, str], blurb: str, track: str, date: datetime.date
) -> dict[str, Any]:
    """The fields of submission.json."""
    said = {**identity, "name": runs[0].name, "blurb": blurb, "date": date.isoformat(), "track": track}
    return said | entry_figures(runs)


def entry_figures(runs: Sequence[Results]) -> dict[str, Any]:
    """The figures in submission.json.

    val_bpb is bits per byte and val_loss nats per token, means over the seeds with sample deviations (null
    for one seed); bytes, their artifact_sha256, and seconds are those of the largest artifact and of the
    slowest seed.
    """
    by_seed = {str(run.seed): _seed_figures(run) for run in runs}
    seeds = list(by_seed.values())
    val_bpb, val_bpb_std = mean_and_deviation([seed["val_bpb"] for seed in seeds])
    val_loss, val_loss_std = mean_and_deviation([seed["val_loss"] for seed in seeds])
    before = [seed["pre_quant_val_bpb"] for seed in seeds]
    largest, final = max(seeds, key=lambda seed: seed["bytes_total"]), runs[0].final.tally
    return {
        "val_loss": val_loss,
        "val_bpb": val_bpb,
        "val_loss_std": val_loss_std,
        "val_bpb_std": val_bpb_std,
        "seeds": [run.seed for run in runs],
        "seed_results": by_seed,
        "pre_quant_val_bpb": None if None in before else statistics.fmean(before),
        **{name: largest[name] for name in ("bytes_total", "bytes_model", "bytes_code", "artifact_sha256")},
        "train_seconds": max(seed["train_seconds"] for seed in seeds),
        "eval_seconds": max(seed["eval_seconds"] for seed in seeds),
        "tokens_scored": final.num_tokens,
        "bytes_scored": final.num_bytes,
        "hardware": runs[0].environment.get("hardware", "unknown"),
        "versions": versions(runs[0]),
        "toolkit_commit": runs[0].toolkit_commit,
    }


def _seed_figures(run: Results) -> dict[str, Any]:
    before = run.before_quantization
    return {
        "val_bpb": run.final.tally.bits_per_byte,
        "val_loss": run.final.tally.nats_per_token,
        "pre_quant_val_bpb": before.tally.bits_per_byte if before else None,
        "bytes_total": run.packing.total_bytes,
        "bytes_model": run.packing.artifact_bytes,
        "bytes_code": run.packing.code_bytes,
        "artifact_sha256": run.packing.artifact_sha256,
        "train_seconds": run.train_seconds,
        "eval_seconds": run.eval_seconds,
        "steps": run.training.steps,
    }


def best_entry(records_root: Path) -> Path | None:
    """The committed entry of this project with the lowest bits per byte; None where there is none yet.

    Of entries scored on different texts, those on the challenge's come first, else those on the longest.
    """
    ranks: dict[Path, tuple[bool, int, float]] = {}
    for path in sorted(path for track in RECORD_TRACKS for path in records_root.glob(f"{track}/*/")):
        with suppress(EntryError):
            runs = list(read_entry_results(EntryFolder(path).results).values())
            final, scores = runs[0].final.tally, [run.final.tally.bits_per_byte for run in runs]
            is_other = text_of_size(final.num_bytes) != "challenge"
            ranks[path] = is_other, -final.num_bytes, statistics.fmean(scores)
    return min(ranks, key=ranks.__getitem__, default=None)
