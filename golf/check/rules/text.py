"""Rules on the validation text: all of it, its bytes counted right, and the same for every seed."""

import re
from collections.abc import Iterable

from golf.check.findings import Finding, Quote, error, info, warning
from golf.check.record import Record, implied_bytes
from golf.data.reference import CANONICAL_BYTES, describe_bytes, find_cause, find_export, is_canonical

SEED_TOLERANCE = 1e-4
"""Relative difference that the implied bytes of one folder's seeds may have."""
RATIO_TOLERANCE = 5e-4
"""Relative difference that val_loss / val_bpb may have within a log, besides rounding: stages cut the end of
the text differently."""
LEAKING_TRAIN_SHARDS = 1499
"""Training shards of the CaseOps export that trains on validation documents."""

_COUNT = re.compile(r"\b(?:N_|num_)?bytes\s*[:=]\s*(\d[\d,]*)", re.I)


def canonical_bytes(record: Record) -> Iterable[Finding]:
    """val_loss / ln 2 x tokens / val_bpb has to be the canonical 151.08 million."""
    for log in record.runs:
        value, score = implied_bytes(log), log.final_score or log.unquantized_score
        if value is None or score is None or is_canonical(value):
            continue
        tokens = log.facts.get("val_tokens")
        at = [score.at, *([tokens.at] if tokens else [])]
        if score.num_bytes:
            yield _stated_bytes(record, value, score.num_bytes, at)
            return
        cause = find_cause(value)
        level = error if cause and cause.is_partial else warning
        yield level("implied-bytes", f"val_loss, val_bpb and tokens imply {describe_bytes(value)}", *at)
        break
    for log in record.runs:
        score = log.final_score or log.unquantized_score
        ratio = score.bytes_per_token if score else None
        if score is None or ratio is None or score.num_tokens or "val_tokens" in log.facts:
            continue
        if not find_export(ratio):
            text = f"{ratio:.4f} bytes per token, which no public export has; no token count is stated"
            yield warning("bytes-per-token", text, score.at)
            return


def _stated_bytes(record: Record, value: float, stated: int, at: list[Quote]) -> Finding:
    if abs(value / stated - 1) > SEED_TOLERANCE:
        text = f"val_loss, val_bpb and tokens imply {value:,.0f} bytes; the same line states {stated:,}"
        return error("implied-bytes", text, *at)
    text = f"scored {stated:,} bytes: not the challenge's text of 151.08 million, so not comparable with it"
    return (warning if record.track == "10min" else info)("other-text", text, *at)


def bytes_agree(record: Record) -> Iterable[Finding]:
    """The seeds of one folder have to imply the same bytes."""
    found = sorted((value, log.file, log) for log in record.runs if (value := implied_bytes(log)))
    if len(found) < 2:
        return
    (low, _, low_log), (high, _, high_log) = found[0], found[-1]
    tokens = {log.fact("val_tokens") for _, _, log in found}
    if high / low - 1 > SEED_TOLERANCE and len(tokens) == 1:
        text = f"the seeds imply {low / 1e6:.3f} to {high / 1e6:.3f} million bytes: not scored alike"
        evidence = [log.final_score.at for log in (low_log, high_log) if log.final_score]
        yield warning("implied-bytes-differ", text, *evidence)
    elif len(tokens) > 1:
        counts = ", ".join(f"{value:,.0f}" for value in sorted(token for token in tokens if token))
        yield warning("val-tokens-differ", f"the seeds' validation sets differ: {counts} tokens")


def ratio_constant(record: Record) -> Iterable[Finding]:
    """val_loss / val_bpb depends on text and tokenizer; if it changes within a log, the counting changed."""
    for log in record.runs:
        usable = [(ratio, score) for score in log.scores if (ratio := score.bytes_per_token)]
        for ratio, score in usable:
            last_ratio, last = usable[-1]
            rounding = sum(
                0.6 * s.resolution * (1 / s.val_bpb + 1 / s.val_loss) for s in (score, last) if s.val_loss
            )
            if abs(ratio / last_ratio - 1) > RATIO_TOLERANCE + rounding:
                text = "val_loss / val_bpb changes within the log: another text, or bytes counted otherwise"
                yield warning("ratio-changes", text, score.at, last.at)
                return


def whole_set(record: Record) -> Iterable[Finding]:
    """Lines that show a part of the validation text, and the shard count of the leaking CaseOps export."""
    for log in record.runs:
        for at in log.marks.get("partial", [])[:1]:
            count = _COUNT.search(at.text)
            num_bytes = int(count.group(1).replace(",", "")) if count else 0
            if 0 < num_bytes < 0.98 * CANONICAL_BYTES:
                share = 100 * num_bytes / CANONICAL_BYTES
                text = f"scored {num_bytes:,} bytes, {share:.0f}% of the validation text"
                text += ": is this line's score the one claimed?"
                yield warning("partial-validation", text, at)
            elif count and not is_canonical(num_bytes):
                yield warning("bytes-miscounted", f"counts {describe_bytes(num_bytes)}", at)
            elif not count:
                yield warning("partial-validation", "scores a part of the validation text", at)
        shards = log.facts.get("train_shards")
        if shards and shards.value == LEAKING_TRAIN_SHARDS:
            text = "1,499 training shards: the CaseOps export that trains on validation documents (#2127)"
            yield warning("train-val-overlap", text, shards.at)
            return


def known_export(record: Record) -> Iterable[Finding]:
    """Names the export that was scored, if it is a known one."""
    for log in record.runs[:1]:
        score, value = log.final_score, implied_bytes(log)
        if score and score.bytes_per_token and value and is_canonical(value):
            if export := find_export(score.bytes_per_token):
                text = f"{export.name}: implied {value / 1e6:.3f} million bytes, the whole validation text"
                yield info("export", text, score.at)


RULES = (canonical_bytes, bytes_agree, ratio_constant, whole_set, known_export)
