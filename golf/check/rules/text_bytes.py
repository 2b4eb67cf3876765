"""Rules on what was scored: the whole validation text, its bytes counted rightly."""

import re
from collections.abc import Iterable

from golf.check.claims import at_fact, at_score, entry_runs
from golf.check.findings import Evidence, Finding, defect, doubt, note
from golf.check.folder import Folder
from golf.check.logs.read import LoggedScore, ParsedLog
from golf.check.reference_counts import (
    CANONICAL_BYTES,
    bytes_per_token,
    describe_bytes,
    find_cause,
    find_export,
    implied_bytes,
    is_canonical,
)

SEED_TOLERANCE = 1e-4
"""Share by which the implied bytes of one folder's seeds may differ."""
RATIO_TOLERANCE = 5e-4
"""Share by which val_loss / val_bpb may differ within a log, rounding aside: stages cut other tails."""

_COUNT = re.compile(r"\b(?:N_|num_)?bytes\s*[:=]\s*(\d[\d,]*)", re.I)


def implied(log: ParsedLog) -> float | None:
    """The bytes a log's final score, or else its last one, implies with the tokens it states."""
    score = log.final_score or log.unquantised_score
    tokens = score.num_tokens or log.fact("val_tokens") if score else None
    if score is None or not tokens or not _usable(score):
        return None
    return implied_bytes(score.val_loss or 0.0, score.val_bpb, tokens)


def canonical_bytes(folder: Folder) -> Iterable[Finding]:
    """val_loss / ln 2 x tokens / val_bpb has to be the canonical 151.08 million."""
    off = [(log, value) for log in entry_runs(folder) if (value := implied(log)) and not is_canonical(value)]
    if off:
        log, value = off[0]
        score = log.final_score or log.unquantised_score
        at = [at_score(log, score)] if score else []
        at += [at_fact(log, log.facts["val_tokens"])] if "val_tokens" in log.facts else []
        if score and score.num_bytes:
            yield from _stated_bytes(folder, value, score.num_bytes, at)
            return
        cause = find_cause(value)
        level = defect if cause and cause.is_partial else doubt
        text = f"val_loss, val_bpb and tokens imply {describe_bytes(value)}"
        yield level("implied-bytes", text, *at)
    for log in entry_runs(folder):
        score = log.final_score or log.unquantised_score
        if score and _usable(score) and not score.num_tokens and "val_tokens" not in log.facts:
            ratio = bytes_per_token(score.val_loss or 0.0, score.val_bpb)
            if not find_export(ratio):
                text = f"{ratio:.4f} bytes per token, which no public export has; no token count is stated"
                yield doubt("bytes-per-token", text, at_score(log, score))
                return


def _stated_bytes(folder: Folder, value: float, stated: int, at: list[Evidence]) -> Iterable[Finding]:
    if abs(value / stated - 1) > SEED_TOLERANCE:
        text = f"val_loss, val_bpb and tokens imply {value:,.0f} bytes; the same line states {stated:,}"
        yield defect("implied-bytes", text, *at)
        return
    text = (
        f"scored {stated:,} bytes: another text than the challenge's 151.08 million, not comparable with it"
    )
    yield (doubt if folder.track == "10min" else note)("other-text", text, *at)


def bytes_agree(folder: Folder) -> Iterable[Finding]:
    """The seeds of one folder have to imply the same bytes."""
    found = [(log, value) for log in entry_runs(folder) if (value := implied(log))]
    if len(found) < 2:
        return
    (low_log, low), (high_log, high) = min(found, key=lambda f: f[1]), max(found, key=lambda f: f[1])
    tokens = {log.fact("val_tokens") for log, _ in found}
    if high / low - 1 > SEED_TOLERANCE and len(tokens) == 1:
        text = f"the seeds imply {low / 1e6:.3f} to {high / 1e6:.3f} million bytes: not scored alike"
        evidence = [at_score(log, log.final_score) for log in (low_log, high_log) if log.final_score]
        yield doubt("implied-bytes-differ", text, *evidence)
    elif len(tokens) > 1:
        counts = ", ".join(f"{value:,.0f}" for value in sorted(token for token in tokens if token))
        yield doubt("val-tokens-differ", f"the seeds' validation sets differ: {counts} tokens")


def ratio_constant(folder: Folder) -> Iterable[Finding]:
    """val_loss / val_bpb is of text and tokenizer; where it changes within a log, the counting changed."""
    for log in entry_runs(folder):
        usable = [score for score in log.scores if _usable(score)]
        if len(usable) < 2:
            continue
        last = usable[-1]
        reference = (last.val_loss or 0.0) / last.val_bpb
        for score in usable:
            rounding = 0.6 * 10.0**-score.decimals * (1 / score.val_bpb + 1 / (score.val_loss or 1.0))
            rounding += 0.6 * 10.0**-last.decimals * (1 / last.val_bpb + 1 / (last.val_loss or 1.0))
            if abs((score.val_loss or 0.0) / score.val_bpb / reference - 1) > RATIO_TOLERANCE + rounding:
                text = "val_loss / val_bpb changes within the log: another text, or bytes counted otherwise"
                yield doubt("ratio-changes", text, at_score(log, score), at_score(log, last))
                return


def whole_set(folder: Folder) -> Iterable[Finding]:
    """Lines that betray a part of the validation text, and the shard count of the leaking CaseOps export."""
    for log in entry_runs(folder):
        for line in log.marks.get("partial", [])[:1]:
            count = _COUNT.search(line.text)
            num_bytes = int(count.group(1).replace(",", "")) if count else 0
            at = Evidence(log.file, line.number, line.text.strip()[:160])
            if 0 < num_bytes < 0.98 * CANONICAL_BYTES:
                share = 100 * num_bytes / CANONICAL_BYTES
                text = f"scored {num_bytes:,} bytes, {share:.0f}% of the validation text"
                yield doubt("partial-validation", text + ": is this line's score the one claimed?", at)
            elif count and not is_canonical(num_bytes):
                text = f"counts {describe_bytes(num_bytes)}"
                yield doubt("bytes-miscounted", text, at)
            elif not count:
                yield doubt("partial-validation", "scores a part of the validation text", at)
        shards = log.facts.get("train_shards")
        if shards and shards.value == 1499:
            text = "1,499 training shards: the CaseOps export that trains on validation documents (#2127)"
            yield doubt("train-val-overlap", text, at_fact(log, shards))
            return


def conventions(folder: Folder) -> Iterable[Finding]:
    """Says which export was scored, where it is a known one."""
    for log in entry_runs(folder)[:1]:
        score = log.final_score
        if score and _usable(score):
            export = find_export(bytes_per_token(score.val_loss or 0.0, score.val_bpb))
            if export and (value := implied(log)) and is_canonical(value):
                text = f"{export.name}: implied {value / 1e6:.3f} million bytes, the whole validation text"
                yield note("export", text, at_score(log, score))


def _usable(score: LoggedScore) -> bool:
    return bool(score.val_loss) and 0 < (score.val_loss or 0.0) < 1e3 and 0 < score.val_bpb < 1e3


RULES = (canonical_bytes, bytes_agree, ratio_constant, whole_set, conventions)
