"""Public scores of the challenge, each with its hardware, training time, tokenizer and validation text.

Scores are means over three seeds unless the note says otherwise; the values are printed in the pull request
given (openai/parameter-golf). Only scores on the same validation text are comparable.
"""

import bisect
from dataclasses import dataclass

from golf.data.reference import ValidationText, text_of_size
from golf.results import Results


@dataclass(frozen=True)
class LeaderboardRow:
    """A public score."""

    bpb: float
    name: str
    tokenizer: str
    pull_request: int | None
    """None for an entry of the repository's owners."""
    note: str = ""
    hardware: str = "8xH100"
    train_minutes: float | None = 10.0
    """None if the pull request does not state it."""
    text: ValidationText = "challenge"


_AUDITED = "ranked by the final audit, #2146"

LEADERBOARD: tuple[LeaderboardRow, ...] = (
    LeaderboardRow(
        1.2244,
        "naive baseline of launch day",
        "sp1024",
        None,
        "one seed, on the launch-day export",
        text="launch-day",
    ),
    LeaderboardRow(1.2074, "naive baseline, four hours", "sp1024", None, "one seed", "8xH100", 240.0),
    LeaderboardRow(1.1458, "SmearGate, BigramHash, MLP 3x", "sp1024", 162),
    LeaderboardRow(1.1428, "10 layers, int5 MLP, SWA", "sp1024", 180),
    LeaderboardRow(1.1318, "11 layers", "sp1024", 198),
    LeaderboardRow(1.1271, "XSA on the last 4 layers, EMA", "sp1024", 287),
    LeaderboardRow(
        1.1248, "partial RoPE, layer-norm scale", "sp1024", 315, "best of three seeds; mean 1.1250"
    ),
    LeaderboardRow(1.1228, "the stack #549 builds on", "sp1024", 414),
    LeaderboardRow(1.1194, "LeakyReLU squared, score-first adaptation", "sp1024", 549),
    LeaderboardRow(1.1147, "XSA on all layers, full GPTQ", "sp1024", 1019),
    LeaderboardRow(1.1063, "depth recurrence, parallel residuals", "sp1024", 1204),
    LeaderboardRow(1.0979, "vocabulary 4,096, MLP 4x", "sp4096", 1218),
    LeaderboardRow(1.0912, "MuonEq-R", "sp4096", 1285),
    LeaderboardRow(1.0856, "vocabulary 8,192, SDClip", "sp8192", 1394),
    LeaderboardRow(1.0810, "three-layer recurrence, score-first adaptation", "sp8192", 1493),
    LeaderboardRow(1.0758, "two-lane parallel residuals", "sp8192", 1529),
    LeaderboardRow(1.0734, "packed documents, LoRA adaptation by document", "sp8192", 1530),
    LeaderboardRow(1.0714, "attention output gate", "sp8192", 1667),
    LeaderboardRow(1.0655, "CaseOps, gated attention, phased adaptation", "CaseOps sp8192", 1736),
    LeaderboardRow(1.0611, "LQER, sparse gates, SmearGate with BOS mask", "CaseOps sp8192", 1855),
    LeaderboardRow(1.0594, "asymmetric logit rescale", "CaseOps sp8192", 1945, _AUDITED),
    LeaderboardRow(1.0586, "longer evaluation context", "CaseOps sp8192", 1953, _AUDITED),
    LeaderboardRow(1.0576, "context growth", "CaseOps sp8192", 2014, _AUDITED),
    LeaderboardRow(1.0565, "n-gram tilt: the final first place", "CaseOps sp8192", 2135, _AUDITED),
    LeaderboardRow(1.2392, "129 experiments on one GPU", "sp1024", 436, "", "1xH100", 10.0),
    LeaderboardRow(1.2192, "8 layers, sliding window", "sp4096", 1617, "", "1xH100", 10.0),
    LeaderboardRow(1.2207, "11 layers, SWA", "sp1024", 334, "not quantized; over the limit", "1xH100", 107.0),
    LeaderboardRow(1.1573, "80 minutes on a PCIe card", "unknown", 1090, "", "1xH100 PCIe", 80.0),
    LeaderboardRow(1.1129, "the #1019 recipe without adaptation", "sp1024", 1224, "", "1xH100", 80.0),
    LeaderboardRow(1.1026, "3,000 steps of the #1394 stack", "sp8192", 2084, "", "1xH200", 110.0),
    LeaderboardRow(1.0704, "the #1493 recipe for four hours", "sp8192", 1528, "", "1xA100", 240.0),
    LeaderboardRow(1.0587, "the #1855 code", "CaseOps sp8192", 2033, "one seed", "1xH200", None),
)


def neighbors(
    bpb: float, text: ValidationText | None = "challenge", nearest: int = 3
) -> tuple[list[LeaderboardRow], list[LeaderboardRow]]:
    """Better public scores on the same text, the nearest last, and worse ones, the nearest first.

    `text` is None for a text without public scores.
    """
    rows = sorted((row for row in LEADERBOARD if row.text == text), key=lambda row: row.bpb)
    at = bisect.bisect_left(rows, bpb, key=lambda row: row.bpb)
    return rows[max(0, at - nearest) : at], rows[at : at + nearest]


def place_of(results: Results, bpb: float, train_seconds: float) -> tuple[list[tuple[str, ...]], str]:
    """Where a score stands: table rows of it and its neighbors, and what it is comparable with.

    Columns: bits per byte, name, hardware, minutes, tokenizer, source.
    """
    text = text_of_size(results.final.tally.num_bytes)
    hardware = str(results.environment.get("hardware", "unknown"))
    minutes, tokenizer = round(train_seconds / 60, 1), f"{results.config['model']['vocab_size']:,} pieces"
    above, below = neighbors(bpb, text)
    own = (f"{bpb:.4f}", results.name, hardware, f"{minutes:g}", tokenizer, "this")
    gpus = int(results.environment.get("device") == "cuda")
    return [*map(_cells, above), own, *map(_cells, below)], what_compares(text, gpus, minutes)


def what_compares(text: ValidationText | None, num_gpus: int, train_minutes: float) -> str:
    """One paragraph on which public scores a score is comparable with, and which not."""
    if text is None:
        return (
            "Scored on another text than the challenge's 50,000 validation documents. Bits per byte depend "
            "on the text: this score is not comparable with any public score."
        )
    if text == "launch-day":
        return (
            "Scored on the launch-day export (155.77 million bytes), like the launch-day baseline: not "
            "comparable with scores on the present export."
        )
    return (
        "Scored on the challenge's 50,000 validation documents: bits per byte are comparable across "
        "tokenizers, since all count the same 151.08 million bytes. Compute differs: training took "
        f"{num_gpus * train_minutes:,.0f} GPU-minutes, a ten-minute record takes 80 on H100 and as many for "
        "the evaluation. Rows on other hardware or of another track show what is possible, not a rank. The "
        "launch-day baseline (1.2244) is on another export and is not listed."
    )


def _cells(row: LeaderboardRow) -> tuple[str, ...]:
    source = f"#{row.pull_request}" if row.pull_request else "main"
    name = f"{row.name} ({row.note})" if row.note else row.name
    minutes = f"{row.train_minutes:g}" if row.train_minutes else "not stated"
    return (f"{row.bpb:.4f}", name, row.hardware, minutes, row.tokenizer, source)
