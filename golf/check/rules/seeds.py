"""Rules on seeds: one code and one configuration, a log of each claimed seed, and figures by seed."""

import statistics
from collections.abc import Iterable

from golf.check.claims import Record, fingerprint, is_stated, matches, named_seed, seed_of
from golf.check.findings import Evidence, Finding, error, info, warning
from golf.check.logs.read import ParsedLog
from golf.check.rules.scores import FAR_BPB
from golf.check.rules.times import stated_times

RECORD_SEEDS = 3
MAX_SETTINGS_SHOWN = 6


def same_code(record: Record) -> Iterable[Finding]:
    """All seeds have to be runs of the same code (#1594, #2124)."""
    first: dict[tuple[int, ...], ParsedLog] = {}
    for log in record.runs:
        if log.code_sizes:
            first.setdefault(tuple(size.num_bytes for size in log.code_sizes), log)
    if len(first) > 1:
        stated = ", ".join(f"{'/'.join(f'{n:,}' for n in key)} ({log.file})" for key, log in first.items())
        evidence = [log.code_sizes[0].line.evidence for log in first.values()]
        yield error("seeds-differ-code", f"the seeds ran different code: {stated} bytes", *evidence)


def same_configuration(record: Record) -> Iterable[Finding]:
    """All seeds have to be runs of the same configuration (#2124)."""
    logs = [log for log in record.runs if log.settings]
    if len({seed_of(log) for log in logs}) < len(logs):
        return
    absent = ("absent", 0)
    for other in logs[1:]:
        first = logs[0]
        names = sorted(first.settings.keys() | other.settings.keys())
        pairs = {name: [log.settings.get(name, absent) for log in (first, other)] for name in names}
        differing = [(name, *pair) for name, pair in pairs.items() if pair[0][0] != pair[1][0]]
        if differing:
            shown = differing[:MAX_SETTINGS_SHOWN]
            listed = ", ".join(f"{name} {one} / {two}" for name, (one, _), (two, _) in shown)
            evidence = [
                Evidence(log.file, log.settings[name][1], f"{name}: {log.settings[name][0]}")
                for log in (first, other)
                for name, *_ in shown
                if name in log.settings
            ]
            text = f"{first.file} and {other.file} ran different configurations: {listed}"
            yield error("seeds-differ-config", text, *evidence)
            return


def claimed_seeds_logged(record: Record) -> Iterable[Finding]:
    """Each seed the JSON names has to have its log, and each log the seed that its name says."""
    submission = record.folder.submission
    logs = [log for log in record.folder.logs if log.has_content]
    for log in logs:
        stated = log.facts.get("seed")
        named = named_seed(log)
        if stated and named is not None and int(stated.value) != named:
            text = f"is named after seed {named} and states seed {int(stated.value)}"
            yield error("seed-name", text, stated.line.evidence)
    if submission and logs:
        present = {seed_of(log) for log in logs}
        missing = [str(seed) for seed in submission.seeds if seed not in present]
        text = ""
        if missing and None not in present:
            text = f"no log of seed {', '.join(missing)}, which the JSON names"
        elif missing and len(logs) < len(submission.seeds):
            text = f"the JSON names {len(submission.seeds)} seeds, the folder holds {len(logs)} logs"
        if text:
            yield error("seed-missing", text, submission.evidence("seeds"))
    by_run: dict[object, ParsedLog] = {}
    for log in logs:
        twin = by_run.setdefault(fingerprint(log), log) if len(log.scores) >= 3 else log
        if seed_of(twin) != seed_of(log):
            text = f"{twin.file} and {log.file} hold the same run under two seeds"
            yield error("seed-twice", text, Evidence(twin.file), Evidence(log.file))


def enough_seeds(record: Record) -> Iterable[Finding]:
    """A record of the 10-minute track is usually shown on three seeds."""
    runs = record.runs
    if record.folder.track == "10min" and 0 < len(runs) < RECORD_SEEDS:
        plural = "s" if len(runs) > 1 else ""
        yield info("few-seeds", f"{len(runs)} run{plural}; a record is usually shown on {RECORD_SEEDS} seeds")
    files, copies = {run.file for run in runs}, {fingerprint(run) for run in runs}
    others = [log for log in record.folder.logs if log.has_content and log.file not in files]
    others = [log.file for log in others if fingerprint(log) not in copies]
    if others:
        runs_left = f"{len(others)} further run{'s' if len(others) > 1 else ''}"
        yield info("other-runs", f"{runs_left}, not part of the claim: {', '.join(others[:4])}")


def deviations(record: Record) -> Iterable[Finding]:
    """The JSON's standard deviation has to follow from the logs."""
    figure = record.figure("val_bpb_std")
    values = [score.val_bpb for score in record.final_scores]
    if figure is None or len(values) < 2:
        return
    sample, population = statistics.stdev(values), statistics.pstdev(values)
    if matches(figure, sample, 1e-6):
        return
    if matches(figure, population, 1e-6):
        text = f"{figure.written} divides by n; the sample deviation of the seeds is {sample:.6f}"
        yield info("std-population", text, figure.evidence)
    else:
        text = f"{figure}; the logs give {sample:.6f} (n - 1) or {population:.6f} (n)"
        yield warning("std-unsupported", text, figure.evidence)


def seed_results(record: Record) -> Iterable[Finding]:
    """Each seed's figures in the JSON have to be its log's."""
    submission = record.folder.submission
    runs = {seed_of(log): log for log in record.runs}
    if submission is None:
        return
    for seed, figures in submission.seed_results.items():
        log = runs.get(seed)
        if log is None:
            continue
        score, total, steps = log.final_score, record.total(log), log.fact("steps")
        totals = [total.logged.num_bytes, total.shipped_bytes] if total else []
        models = [size.num_bytes for size in log.model_sizes]
        stated = {
            "val_bpb": [score.stated] if score else [],
            "val_loss": [(score.val_loss, 1e-4)] if score and score.val_loss else [],
            "bytes_total": [(value, 1.0) for value in totals + models],
            "steps": [] if steps is None else [(steps, 1.0)],
            "train_seconds": [(value, 2.0) for value in stated_times([log], "train_seconds")],
        }
        off = {
            meaning: f"{figure} against {values[0][0]:,.10g}"
            for meaning, values in stated.items()
            if (figure := figures.get(meaning)) and values and not is_stated(figure, values)
        }
        if off:
            text = f"seed {seed}: {'; '.join(off.values())} in its log"
            is_far = score and "val_bpb" in off and abs(figures["val_bpb"].value - score.val_bpb) > FAR_BPB
            level = error if is_far else warning
            yield level("seed-result-unsupported", text, submission.evidence(str(seed)), Evidence(log.file))


RULES = (same_code, same_configuration, claimed_seeds_logged, enough_seeds, deviations, seed_results)
