"""What an entry's page shows beyond its scores: bytes by part, how often each code occurs, loss by position.

Shapes: N graded targets, W windows, T positions of a window.
"""

from typing import Any

import numpy as np

from golf.data.manifest import Dataset
from golf.evaluate import load_model
from golf.pack.container import read_container
from golf.pack.report import describe_artifact
from golf.run_folder import RunFolder
from golf.score.scorer import Scoring, score
from golf.score.windows import WindowConfig
from golf.system.clock import StageClock
from golf.system.device import choose_runtime
from golf.train.checkpoint import load_weights

POSITION_TOKENS = 32_768
"""Validation targets that the loss by position is measured on."""


def portrait(folder: RunFolder, dataset: Dataset, device: str) -> tuple[dict[str, int], dict[str, Any]]:
    """Bytes by part of a run's artifact, and the rest as JSON values: `codes` and `loss_by_position`.

    Only the entropy scheme tells its bytes and codes apart; for another both are empty.
    """
    artifact = folder.artifact.read_bytes()
    positions = loss_by_position(artifact, dataset, device)
    if read_container(artifact)[0]["scheme"] != "entropy":
        return {}, {"codes": {}, "loss_by_position": positions}
    described = describe_artifact(artifact, load_weights(folder.weights), None)
    by_part = described["totals"]["bytes_by_part"]
    parts = {part: round(size) for part, size in by_part.items() if part in described["histograms"]}
    codes = {part: _without_empty_ends(**counted) for part, counted in described["histograms"].items()}
    return parts, {"codes": codes, "loss_by_position": positions}


def loss_by_position(artifact: bytes, dataset: Dataset, device: str) -> dict[str, Any]:
    """Mean nats of targets 1, 2, 3 to 4, 5 to 8 and so on of a window, over the first disjoint windows."""
    model, _ = load_model(artifact, choose_runtime(device).device)
    context = model.config.context
    tokens = dataset.validation_tokens(StageClock())
    num_windows = min(len(tokens) - 1, max(POSITION_TOKENS, context)) // context
    windows = WindowConfig(stride=context)
    result = score(Scoring(model, tokens, dataset.vocabulary, windows, num_windows * context))
    nats_T = result.nats_N.reshape(num_windows, context).mean(0, dtype=np.float64)
    ends = [1 << power for power in range(context.bit_length()) if 1 << power <= context]
    ends += [context] if ends[-1] != context else []
    starts = [0, *ends[:-1]]
    means = [float(nats_T[start:end].mean()) for start, end in zip(starts, ends, strict=True)]
    return {"context": context, "tokens_scored": len(result.nats_N), "up_to_position": ends, "nats": means}


def _without_empty_ends(first_code: int, counts: list[int]) -> dict[str, Any]:
    used = np.flatnonzero(counts)
    if not len(used):
        return {"first_code": 0, "counts": []}
    return {"first_code": first_code + int(used[0]), "counts": counts[used[0] : used[-1] + 1]}
