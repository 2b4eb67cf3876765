"""Statistics of an artifact: bytes by part, how often each code occurs, loss by position in the window.

Shapes: N graded targets, W windows, T positions of a window.
"""

from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np

from golf.data.manifest import Dataset
from golf.entry.portrait import CodeCounts, LossByPosition, Portrait
from golf.evaluate import load_model
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
    """Bytes by part of a run's artifact, and its Portrait as JSON values.

    Bytes and codes by part are empty if the quantizer does not describe its codes by tensor.
    """
    artifact = folder.artifact.read_bytes()
    positions = loss_by_position(artifact, dataset, device)
    described = describe_artifact(artifact, load_weights(folder.weights), None)
    if described is None:
        return {}, asdict(Portrait(loss_by_position=positions))
    by_part = described["totals"]["bytes_by_part"]
    parts, codes = {}, {}
    for part, counted in described["histograms"].items():
        parts[part] = round(by_part[part])
        # Without the empty ends.
        used = np.flatnonzero(counted["counts"])
        start, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        codes[part] = CodeCounts(counted["first_code"] + start, counted["counts"][start:stop])
    return parts, asdict(Portrait(codes, positions))


def loss_by_position(artifact: bytes, dataset: Dataset, device: str) -> LossByPosition:
    """Mean nats of targets 1, 2, 3 to 4, 5 to 8 and so on of a window, over the first disjoint windows."""
    model, _ = load_model(artifact, choose_runtime(device).device)
    context = model.config.context
    tokens = dataset.validation_tokens(StageClock())
    num_windows = min(len(tokens) - 1, max(POSITION_TOKENS, context)) // context
    windows = WindowConfig(stride=context)
    result = score(Scoring(model, tokens, dataset.vocabulary, windows, num_windows * context))
    nats_T = result.nats_N.reshape(num_windows, context).mean(0, dtype=np.float64)
    ends = sorted({*(1 << power for power in range(context.bit_length())), context})
    means = [float(nats_T[start:end].mean()) for start, end in pairwise([0, *ends])]
    return LossByPosition(context, len(result.nats_N), ends, means)
