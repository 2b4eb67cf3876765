"""Rules on bytes of code and weights: 16,000,000 for every seed, and what the JSON says of them."""

from collections.abc import Iterable

from golf.check.claims import Total, at_size, entry_runs, is_exactly, is_over, matches, mean, totals
from golf.check.findings import Evidence, Finding, defect, doubt, note
from golf.check.folder import Folder
from golf.check.logs.sizes import UNCOMPRESSED_FROM
from golf.check.rules.origin import find_foreign
from golf.pack.fit import LIMIT_BYTES


def within_limit(folder: Folder) -> Iterable[Finding]:
    """No run's code and weights may exceed the limit; where two sums exist, the shipped one counts."""
    runs = totals(folder, entry_runs(folder))
    over = [total for total in runs if is_over(total)]
    if over:
        largest = max(over, key=lambda total: total.shipped_bytes)
        text = (
            f"{largest.shipped_bytes:,} bytes of code and weights, {largest.shipped_bytes - LIMIT_BYTES:,} "
            f"over the limit of {LIMIT_BYTES:,} ({len(over)} of {len(runs)} runs; {_convention(largest)})"
        )
        evidence = [at_size(total.log, total.logged) for total in over]
        if largest.logged.num_bytes > UNCOMPRESSED_FROM:
            yield doubt("size-over-limit", text + ": is that uncompressed?", *evidence)
        else:
            yield defect("size-over-limit", text, *evidence)
    for total in runs:
        if total.logged.says_fits and total.logged.num_bytes > LIMIT_BYTES * 1.005:
            text = f"calls {total.logged.num_bytes:,} bytes within the limit"
            yield defect("size-says-fits", text, at_size(total.log, total.logged))


def both_sums(folder: Folder) -> Iterable[Finding]:
    """Where the script is packed or the log charges packed code, both sums are told."""
    runs = totals(folder, entry_runs(folder))
    for total in [total for total in runs if total.differs][:1]:
        text = (
            f"the log charges {total.logged.num_bytes:,} bytes with readable code; with the packed script as "
            f"shipped it is {total.shipped_bytes:,}, and that counts"
        )
        yield note("size-two-sums", text, at_size(total.log, total.logged))
    for total in runs[:1]:
        raw = next((size for size in total.log.sizes if size.kind == "raw_code"), None)
        if raw and total.code_bytes and raw.num_bytes > total.code_bytes:
            readable = total.logged.num_bytes - total.code_bytes + raw.num_bytes
            text = (
                f"the log charges {total.code_bytes:,} bytes of compressed code, {total.logged.num_bytes:,} "
                f"in all; with readable code it is {readable:,} (both conventions were accepted)"
            )
            yield note("size-two-sums", text, at_size(total.log, raw))


def claimed_total(folder: Folder) -> Iterable[Finding]:
    """The JSON's total has to be one that a log states: the largest seed's, or another, then said so."""
    submission = folder.submission
    figure = submission.figures.get("bytes_total") if submission else None
    if submission is None or figure is None:
        return
    at = submission.evidence(figure.key)
    if figure.value - figure.half_step > LIMIT_BYTES:
        text = f"claims {figure.value:,.0f} bytes, over the limit of {LIMIT_BYTES:,}"
        yield defect("size-claimed-over-limit", text, at)
    if figure.assumed:
        text = f"{figure.key}: {figure.written} names no unit; read as {figure.assumed}"
        yield note("size-unit", text, at)
    runs = totals(folder, entry_runs(folder))
    if not runs or find_foreign(folder):
        return
    logged = [float(total.logged.num_bytes) for total in runs]
    shipped = [float(total.shipped_bytes) for total in runs]
    if matches(figure, max(shipped)) or matches(figure, max(logged)):
        return
    if len(runs) > 1 and matches(figure, mean(logged), 1.0):
        text = f"{figure.key} is the mean of the seeds; the limit is held by the largest, {max(shipped):,.0f}"
        yield note("size-is-mean", text, at)
    elif any(matches(figure, value) for value in logged + shipped):
        text = f"{figure.key} is one seed's; the largest has {max(shipped):,.0f}"
        yield note("size-not-largest", text, at)
    elif any(matches(figure, size.num_bytes) for t in runs for size in t.log.sizes if size.kind == "model"):
        yield note("size-weights-only", f"{figure.key} is the weights alone, without code", at)
    else:
        yield _unsupported(runs, figure.value, figure.key, at)


def claimed_code(folder: Folder) -> Iterable[Finding]:
    """The JSON's code size has to be one that a log states or a file has."""
    submission = folder.submission
    figure = submission.figures.get("bytes_code") if submission else None
    sizes = [size for log in entry_runs(folder) for size in log.sizes if size.kind in ("code", "raw_code")]
    if submission is None or figure is None or not sizes or find_foreign(folder):
        return
    script = folder.script
    known = {float(size.num_bytes) for size in sizes}
    known |= {float(script.num_bytes), float(script.unpacked_bytes)} if script else set()
    if not any(is_exactly(figure, value) for value in known):
        stated = ", ".join(f"{value:,.0f}" for value in sorted(known))
        text = f"{figure.key} {figure.value:,.0f} is stated by no log; they state {stated}"
        yield doubt("code-size-unsupported", text, submission.evidence(figure.key))


def shipped_artifacts(folder: Folder) -> Iterable[Finding]:
    """Where the packed weights are in the folder, they and the script are measured themselves."""
    script = folder.script
    if script is None:
        return
    for entry in folder.artifacts:
        total = entry.num_bytes + script.num_bytes
        if entry.num_bytes > 100_000 and LIMIT_BYTES < total < 2 * LIMIT_BYTES:
            text = f"{entry.name} and {script.file} have {total:,} bytes, over the limit of {LIMIT_BYTES:,}"
            yield defect("size-measured-over-limit", text, Evidence(entry.name), Evidence(script.file))


def _unsupported(runs: list[Total], claimed: float, key: str, at: Evidence) -> Finding:
    stated = ", ".join(f"{total.logged.num_bytes:,}" for total in runs)
    text = f"{key} {claimed:,.0f} is stated by no log; they state {stated}"
    evidence = (at, *(at_size(total.log, total.logged) for total in runs))
    hides = claimed <= LIMIT_BYTES and any(is_over(total) for total in runs)
    return (defect if hides else doubt)("size-unsupported", text, *evidence)


def _convention(total: Total) -> str:
    return "packed script as shipped" if total.differs else "as the log charges it"


RULES = (within_limit, both_sums, claimed_total, claimed_code, shipped_artifacts)
