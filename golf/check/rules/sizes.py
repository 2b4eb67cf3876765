"""Rules on bytes of code and weights: 16,000,000 for every seed, and what the JSON says of them."""

from collections.abc import Iterable
from statistics import fmean

from golf.check.claims import Record, matches
from golf.check.findings import Evidence, Finding, error, info, warning
from golf.check.logs.sizes import UNCOMPRESSED_FROM
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


RULES = (within_limit, both_sums, claimed_total, claimed_code, shipped_artifacts)
