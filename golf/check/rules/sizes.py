"""Rules on bytes: of code and weights against 16,000,000, and of the validation text that was scored."""

import re
from collections.abc import Iterable
from statistics import fmean

from golf.check.claims import Record, implied_bytes, matches
from golf.check.findings import Evidence, Finding, error, info, warning
from golf.check.logs.sizes import UNCOMPRESSED_FROM
from golf.data.reference import CANONICAL_BYTES, describe_bytes, find_cause, find_export, is_canonical
from golf.pack.fit import LIMIT_BYTES

MIN_ARTIFACT_BYTES = 100_000
"""A smaller file is not the packed weights."""


def within_limit(record: Record) -> Iterable[Finding]:
    """No run's code and weights may exceed the limit; where two sums exist, the shipped one counts."""
    over = [total for total in record.totals if total.is_over]
    if over:
        largest = max(over, key=lambda total: total.shipped_bytes)
        differs = largest.shipped_bytes != largest.logged.num_bytes
        text = (
            f"{largest.shipped_bytes:,} bytes of code and weights, {largest.shipped_bytes - LIMIT_BYTES:,} "
            f"over the limit of {LIMIT_BYTES:,} ({len(over)} of {len(record.totals)} runs; "
            f"{'packed script as shipped' if differs else 'as the log charges it'})"
        )
        evidence = [total.evidence for total in over]
        if largest.logged.num_bytes > UNCOMPRESSED_FROM:
            yield warning("size-over-limit", text + ": is that uncompressed?", *evidence)
        else:
            yield error("size-over-limit", text, *evidence)
    for total in record.totals:
        if total.logged.says_fits and total.logged.num_bytes > LIMIT_BYTES * 1.005:
            text = f"calls {total.logged.num_bytes:,} bytes within the limit"
            yield error("size-says-fits", text, total.evidence)


def both_sums(record: Record) -> Iterable[Finding]:
    """Both sums, where the script is packed or the log charges packed code."""
    differing = [total for total in record.totals if total.shipped_bytes != total.logged.num_bytes]
    for total in differing[:1]:
        text = f"the log charges {total.logged.num_bytes:,} bytes with readable code; with the packed script "
        text += f"as shipped it is {total.shipped_bytes:,}, and that counts"
        yield info("size-two-sums", text, total.evidence)
    for total in record.totals[:1]:
        raw = next((size for size in total.log.code_sizes if size.kind == "raw_code"), None)
        if raw and total.code_bytes and raw.num_bytes > total.code_bytes:
            readable = total.logged.num_bytes - total.code_bytes + raw.num_bytes
            text = f"the log charges {total.logged.num_bytes:,} bytes with {total.code_bytes:,} of packed "
            text += f"code; with readable code it is {readable:,} (both conventions were accepted)"
            yield info("size-two-sums", text, raw.line.evidence)


def claimed_total(record: Record) -> Iterable[Finding]:
    """The JSON's total has to be the largest seed's; another one that a log states gets an info."""
    figure = record.figure("bytes_total")
    if figure is None:
        return
    at = figure.evidence
    if figure.value - figure.half_step > LIMIT_BYTES:
        text = f"claims {figure.value:,.0f} bytes, over the limit of {LIMIT_BYTES:,}"
        yield error("size-claimed-over-limit", text, at)
    if figure.assumed:
        text = f"{figure.key}: {figure.written} names no unit; read as {figure.assumed}"
        yield info("size-unit", text, at)
    if not record.totals or record.foreign:
        return
    logged = [total.logged.num_bytes for total in record.totals]
    shipped = [total.shipped_bytes for total in record.totals]
    models = [size.num_bytes for total in record.totals for size in total.log.model_sizes]
    if matches(figure, max(shipped)) or matches(figure, max(logged)):
        return
    if len(logged) > 1 and matches(figure, fmean(logged), 1.0):
        text = f"{figure.key} is the mean of the seeds; the largest counts, {max(shipped):,}"
        yield info("size-is-mean", text, at)
    elif any(matches(figure, value) for value in logged + shipped):
        text = f"{figure.key} is one seed's; the largest has {max(shipped):,}"
        yield info("size-not-largest", text, at)
    elif any(matches(figure, value) for value in models):
        yield info("size-weights-only", f"{figure.key} is the weights alone, without code", at)
    else:
        stated = ", ".join(f"{value:,}" for value in logged)
        text = f"{figure.key} {figure.value:,.0f} is stated by no log; they state {stated}"
        hides = figure.value <= LIMIT_BYTES and any(total.is_over for total in record.totals)
        level = error if hides else warning
        yield level("size-unsupported", text, at, *(total.evidence for total in record.totals))


def claimed_code(record: Record) -> Iterable[Finding]:
    """The JSON's code size has to be one that a log states or a file has; nobody cuts it, some round it."""
    figure = record.own_figure("bytes_code")
    known = {size.num_bytes for log in record.runs for size in log.code_sizes}
    if figure is None or not known:
        return
    script = record.folder.script
    known |= {script.num_bytes, script.unpacked_bytes} if script else set()
    if not any(abs(figure.value - value) <= figure.half_step for value in known):
        stated = ", ".join(f"{value:,}" for value in sorted(known))
        text = f"{figure.key} {figure.value:,.0f} is stated by no log; they state {stated}"
        yield warning("code-size-unsupported", text, figure.evidence)


def shipped_artifacts(record: Record) -> Iterable[Finding]:
    """Packed weights in the folder are measured themselves, with the script."""
    script = record.folder.script
    if script is None:
        return
    for entry in record.folder.artifacts:
        total = entry.num_bytes + script.num_bytes
        if entry.num_bytes > MIN_ARTIFACT_BYTES and LIMIT_BYTES < total < 2 * LIMIT_BYTES:
            text = f"{entry.name} and {script.file} have {total:,} bytes, over the limit of {LIMIT_BYTES:,}"
            yield error("size-measured-over-limit", text, Evidence(entry.name), Evidence(script.file))


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
        at = [score.line.evidence, *([tokens.line.evidence] if tokens else [])]
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
            yield warning("bytes-per-token", text, score.line.evidence)
            return


def _stated_bytes(record: Record, value: float, stated: int, at: list[Evidence]) -> Finding:
    if abs(value / stated - 1) > SEED_TOLERANCE:
        text = f"val_loss, val_bpb and tokens imply {value:,.0f} bytes; the same line states {stated:,}"
        return error("implied-bytes", text, *at)
    text = f"scored {stated:,} bytes: not the challenge's text of 151.08 million, so not comparable with it"
    return (warning if record.folder.track == "10min" else info)("other-text", text, *at)


def bytes_agree(record: Record) -> Iterable[Finding]:
    """The seeds of one folder have to imply the same bytes."""
    found = sorted((value, log.file, log) for log in record.runs if (value := implied_bytes(log)))
    if len(found) < 2:
        return
    (low, _, low_log), (high, _, high_log) = found[0], found[-1]
    tokens = {log.fact("val_tokens") for _, _, log in found}
    if high / low - 1 > SEED_TOLERANCE and len(tokens) == 1:
        text = f"the seeds imply {low / 1e6:.3f} to {high / 1e6:.3f} million bytes: not scored alike"
        evidence = [log.final_score.line.evidence for log in (low_log, high_log) if log.final_score]
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
                yield warning("ratio-changes", text, score.line.evidence, last.line.evidence)
                return


def whole_set(record: Record) -> Iterable[Finding]:
    """Lines that show a part of the validation text, and the shard count of the leaking CaseOps export."""
    for log in record.runs:
        for line in log.marks.get("partial", [])[:1]:
            count = _COUNT.search(line.text)
            num_bytes = int(count.group(1).replace(",", "")) if count else 0
            if 0 < num_bytes < 0.98 * CANONICAL_BYTES:
                share = 100 * num_bytes / CANONICAL_BYTES
                text = f"scored {num_bytes:,} bytes, {share:.0f}% of the validation text"
                text += ": is this line's score the one claimed?"
                yield warning("partial-validation", text, line.evidence)
            elif count and not is_canonical(num_bytes):
                yield warning("bytes-miscounted", f"counts {describe_bytes(num_bytes)}", line.evidence)
            elif not count:
                yield warning("partial-validation", "scores a part of the validation text", line.evidence)
        shards = log.facts.get("train_shards")
        if shards and shards.value == LEAKING_TRAIN_SHARDS:
            text = "1,499 training shards: the CaseOps export that trains on validation documents (#2127)"
            yield warning("train-val-overlap", text, shards.line.evidence)
            return


def known_export(record: Record) -> Iterable[Finding]:
    """Names the export that was scored, if it is a known one."""
    for log in record.runs[:1]:
        score, value = log.final_score, implied_bytes(log)
        if score and score.bytes_per_token and value and is_canonical(value):
            if export := find_export(score.bytes_per_token):
                text = f"{export.name}: implied {value / 1e6:.3f} million bytes, the whole validation text"
                yield info("export", text, score.line.evidence)


RULES = (
    within_limit,
    both_sums,
    claimed_total,
    claimed_code,
    shipped_artifacts,
    canonical_bytes,
    bytes_agree,
    ratio_constant,
    whole_set,
    known_export,
)
