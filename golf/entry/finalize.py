"""What the project adds to a scored run: its facts, the audit, the place among known scores."""

from pathlib import Path
from typing import Any

from golf.audit.rescore import audit_path
from golf.config import RunConfig
from golf.data.manifest import Dataset
from golf.entry.activity import find_features, print_features
from golf.entry.artifact_stats import portrait
from golf.entry.baselines import compressor_bits_per_byte
from golf.entry.bundle import bundle
from golf.entry.selfextract import pack_script
from golf.entry.leaderboard import ladder_rows, what_compares
from golf.entry.provenance import toolkit_commit
from golf.entry.readme import text_scored
from golf.entry.results import Results, results_from_dict
from golf.entry.runs import parse_events
from golf.evaluate import EvaluateConfig
from golf.system.clock import StageClock
from golf.system.files import write_json
from golf.system.log import RunLog
from golf.system.stored import config_from_dict
from golf.time_plan import TimePlan
from golf.train.checkpoint import load_weights


class AuditError(ValueError):
    """The legality probes found a violation; audit.json says which."""


def flattened_script(script: Path, form: str, log: RunLog) -> bytes:
    """The file that a run is charged for, `readable` or `packed`: `script` with its modules pasted in."""
    readable = bundle(script, script.resolve().parent)
    packed = pack_script(readable)
    log.event("code", readable_bytes=len(readable.encode()), packed_bytes=len(packed), shipped=form)
    return packed if form == "packed" else readable.encode()


def finalize_run(
    folder: Path,
    results: dict[str, Any],
    dataset: Dataset,
    how: EvaluateConfig,
    log: RunLog,
    plan: TimePlan | None = None,
) -> None:
    """Completes a scored run's folder with results.json and audit.json, and says where its score stands.

    Adds what only the project can tell: its commit, what compressors make of the same text, which of the
    techniques that were asked for acted, what the artifact's bytes went to. AuditError when a probe finds a
    violation: such a run keeps its results and gets no entry. With a `plan` the audit looks at as many
    targets as the time that is left allows.
    """
    scale = compressor_bits_per_byte(dataset.validation_tokens(StageClock()), dataset.vocabulary)
    log.event("compressors", **scale)
    commit = toolkit_commit(Path(__file__).resolve().parents[2])
    results = {**results, "data": results["data"] | scale, "toolkit_commit": commit}
    weights = load_weights(folder / "weights.safetensors")
    events = parse_events((folder / "run.jsonl").read_text(encoding="utf-8"))
    config = config_from_dict(RunConfig, results["config"])
    features = find_features(config, results, weights, dataset, events)
    print_features(features, log)
    results["features"] = [vars(feature) for feature in features]
    parts, results["portrait"] = portrait(folder, dataset, how.device)
    results["bytes"] = results["bytes"] | {"parts": parts}
    write_json(folder / "results.json", results)
    print_place(results_from_dict(results), log)
    left = None if plan is None else plan.left_seconds
    if not audit_path(folder, dataset.folder, how, log, ttt=False, max_seconds=left):
        raise AuditError(
            f"the audit found violations, listed above and in {folder / 'audit.json'}; the results stay, "
            f"there is no entry; to audit again: python train_gpt.py --resume {folder}"
        )


def print_place(results: Results, log: RunLog) -> None:
    """The score among public ones on the same text, and what it may be compared with."""
    text = text_scored(results)
    minutes = round(results.train_seconds / 60, 1)
    hardware = str(results.environment["hardware"])
    if text is not None:
        columns = ("bits per byte", "what", "hardware", "training minutes", "tokenizer", "source")
        tokenizer = f"{results.config['model']['vocab_size']:,} pieces"
        own = (results.stages.final.val_bpb, results.name, hardware, minutes, tokenizer)
        log.table("among public scores", columns, ladder_rows(*own, text))
    log.info(what_compares(text, int(results.environment["device"] == "cuda"), minutes))
