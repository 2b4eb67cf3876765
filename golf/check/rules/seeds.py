"""Rules on seeds: one code and one configuration, each claimed seed logged, deviations as computed."""

import statistics
from collections.abc import Iterable

from golf.check.claims import (
    at_fact,
    at_size,
    entry_runs,
    final_scores,
    fingerprint,
    matches,
    named_seed,
    seed_of,
    totals,
)
from golf.check.findings import Evidence, Finding, defect, doubt, note
from golf.check.folder import Folder
from golf.check.logs.read import ParsedLog
from golf.check.rules.times import stated_times

RECORD_SEEDS = 3
FAR_BPB = 0.002


def same_code(folder: Folder) -> Iterable[Finding]:
    """All seeds have to be runs of the same code (#1594, #2124)."""
    by_size: dict[tuple[int, ...], ParsedLog] = {}
    evidence = {}
    for log in entry_runs(folder):
        sizes = [size for size in log.sizes if size.kind in ("code", "raw_code")]
        if sizes:
            key = tuple(size.num_bytes for size in sizes)
            by_size.setdefault(key, log)
            evidence.setdefault(key, at_size(log, sizes[0]))
    if len(by_size) > 1:
        stated = ", ".join(f"{'/'.join(f'{n:,}' for n in key)} ({log.file})" for key, log in by_size.items())
        yield defect("seeds-differ-code", f"the seeds ran different code: {stated} bytes", *evidence.values())


def same_configuration(folder: Folder) -> Iterable[Finding]:
    """All seeds have to be runs of the same configuration (#2124)."""
    logs = [log for log in entry_runs(folder) if log.settings]
    if len(logs) < 2 or len({seed_of(log) for log in logs}) < len(logs):
        return
    first = logs[0]
    for other in logs[1:]:
        names = sorted(first.settings.keys() | other.settings.keys())
        differing = [n for n in names if first.settings.get(n, ("",))[0] != other.settings.get(n, ("",))[0]]
        if differing:
            shown = ", ".join(
                f"{n} {first.settings.get(n, ('absent',))[0]} / {other.settings.get(n, ('absent',))[0]}"
                for n in differing[:6]
            )
            text = f"{first.file} and {other.file} ran different configurations: {shown}"
            yield defect("seeds-differ-config", text, *_setting_lines(first, other, differing[:6]))
            return


def _setting_lines(first: ParsedLog, other: ParsedLog, names: list[str]) -> list[Evidence]:
    return [
        Evidence(log.file, log.settings[name][1], f"{name}: {log.settings[name][0]}")
        for log in (first, other)
        for name in names
        if name in log.settings
    ]


def claimed_seeds_logged(folder: Folder) -> Iterable[Finding]:
    """Each seed the JSON names has to have its log, and each log the seed its name says."""
    submission = folder.submission
    logs = [log for log in folder.logs if log.has_content]
    for log in logs:
        stated = log.facts.get("seed")
        named = named_seed(log)
        if stated and named is not None and int(stated.value) != named:
            text = f"is named after seed {named} and states seed {int(stated.value)}"
            yield defect("seed-name", text, at_fact(log, stated))
    if submission and submission.seeds and logs:
        present = {seed_of(log) for log in logs}
        missing = [seed for seed in submission.seeds if seed not in present]
        if missing and None not in present:
            text = f"no log of seed {', '.join(map(str, missing))}, which the JSON names"
            yield defect("seed-missing", text, submission.evidence("seeds"))
        elif missing and len(logs) < len(submission.seeds):
            text = f"the JSON names {len(submission.seeds)} seeds, the folder holds {len(logs)} logs"
            yield defect("seed-missing", text, submission.evidence("seeds"))
    by_run: dict[object, ParsedLog] = {}
    for log in logs:
        if len(log.scores) < 3:
            continue
        twin = by_run.setdefault(fingerprint(log), log)
        if twin is not log and seed_of(twin) != seed_of(log):
            text = f"{twin.file} and {log.file} hold the same run under two seeds"
            yield defect("seed-twice", text, Evidence(twin.file), Evidence(log.file))


def enough_seeds(folder: Folder) -> Iterable[Finding]:
    """A record over 10 minutes is usually shown on three seeds."""
    runs = entry_runs(folder)
    if folder.track == "10min" and 0 < len(runs) < RECORD_SEEDS:
        count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
        yield note("few-seeds", f"{count}; a record is usually shown on {RECORD_SEEDS} seeds")
    others = [log for log in folder.logs if log.has_content and log.file not in {run.file for run in runs}]
    others = [log for log in others if fingerprint(log) not in {fingerprint(run) for run in runs}]
    if others:
        names = ", ".join(log.file for log in others[:4])
        text = f"{len(others)} further run{'s' if len(others) > 1 else ''}, not part of the claim: {names}"
        yield note("other-runs", text)


def deviations(folder: Folder) -> Iterable[Finding]:
    """The JSON's standard deviation has to follow from the logs."""
    submission = folder.submission
    figure = submission.figures.get("val_bpb_std") if submission else None
    values = [score.val_bpb for score in final_scores(entry_runs(folder))]
    if submission is None or figure is None or len(values) < 2:
        return
    sample, population = statistics.stdev(values), statistics.pstdev(values)
    at = submission.evidence(figure.key)
    if matches(figure, sample, 1e-6):
        return
    if matches(figure, population, 1e-6):
        text = f"{figure.written} divides by n; the sample deviation of the seeds is {sample:.6f}"
        yield note("std-population", text, at)
    else:
        text = f"{figure.key} {figure.written}; the logs give {sample:.6f} (n - 1) or {population:.6f} (n)"
        yield doubt("std-unsupported", text, at)


def seed_results(folder: Folder) -> Iterable[Finding]:
    """Each seed's figures in the JSON have to be its log's."""
    submission = folder.submission
    if submission is None or not submission.seed_results:
        return
    runs = {seed_of(log): log for log in entry_runs(folder)}
    for seed, figures in submission.seed_results.items():
        log = runs.get(seed)
        if log is None:
            continue
        score = log.final_score
        stated: dict[str, list[tuple[float, float]]] = {
            "val_bpb": [(score.val_bpb, 10.0**-score.decimals)] if score else [],
            "val_loss": [(score.val_loss, 1e-4)] if score and score.val_loss else [],
            "bytes_total": [
                *(
                    (float(n), 1.0)
                    for t in totals(folder, [log])
                    for n in (t.logged.num_bytes, t.shipped_bytes)
                ),
                *((float(size.num_bytes), 1.0) for size in log.sizes if size.kind == "model"),
            ],
            "steps": [(log.facts["steps"].value, 1.0)] if "steps" in log.facts else [],
            "train_seconds": [(value, 2.0) for value in stated_times([log], "train_seconds")],
        }
        off = []
        far = False
        for meaning, values in stated.items():
            figure = figures.get(meaning)
            if figure and values and not any(matches(figure, value, step) for value, step in values):
                off.append(f"{figure.key} {figure.written} against {values[0][0]:,.10g}")
                far = far or (meaning == "val_bpb" and abs(figure.value - values[0][0]) > FAR_BPB)
        if off:
            text = f"seed {seed}: {'; '.join(off)} in its log"
            at = submission.evidence(str(seed))
            yield (defect if far else doubt)("seed-result-unsupported", text, at, Evidence(log.file))


RULES = (same_code, same_configuration, claimed_seeds_logged, enough_seeds, deviations, seed_results)
