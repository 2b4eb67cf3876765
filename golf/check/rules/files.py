"""Rules on what a folder holds, whether its JSON is complete, and whether it is of the logs beside it."""

from collections.abc import Iterable

from golf.check.claims import Record, fingerprint, is_stated, nearest, seed_of
from golf.check.findings import Evidence, Finding, error, info, warning

MAX_COMMITTED_BYTES = 1_000_000
"""A larger file does not belong in a pull request."""


def submission_complete(record: Record) -> Iterable[Finding]:
    """submission.json has to be there, with a score, a name and an author."""
    submission = record.folder.submission
    if submission is None:
        yield error("no-submission", "no submission.json")
        return
    at = Evidence(submission.file)
    if submission.file != "submission.json":
        yield info("submission-name", "the JSON is not called submission.json", at)
    if not submission.raw:
        return
    bpb = submission.figures.get("val_bpb")
    if bpb is None:
        odd = submission.odd.get("val_bpb")
        text = f"val_bpb is not a number ({odd})" if odd else "val_bpb is missing"
        yield error("json-no-score", text, at)
    elif bpb.was_text:
        yield info("json-text-number", "val_bpb is written as text", bpb.evidence)
    missing = [name for name in ("name", "author", "github_id") if not submission.names.get(name)]
    if missing:
        yield warning("json-who", f"{', '.join(missing)} missing or empty", at)
    optional = ("val_bpb", "val_bpb_std", "val_loss_std")
    odd = [text for meaning, text in submission.odd.items() if meaning not in optional]
    if odd:
        yield info("json-no-number", f"no number under {', '.join(sorted(odd))}", at)


def further_figures(record: Record) -> Iterable[Finding]:
    """Steps, weights and the score before quantisation have to be the logs', unless the JSON is foreign."""
    if record.foreign:
        yield record.foreign
    for meaning in ("steps", "bytes_model", "pre_quant_val_bpb"):
        figure, values = record.own_figure(meaning), record.stated[meaning]
        if figure and values and not is_stated(figure, values):
            text = f"{figure} is stated by no log; the nearest is {nearest(figure, values):,.10g}"
            yield warning("figure-unsupported", text, figure.evidence)


def logs_present(record: Record) -> Iterable[Finding]:
    """The log the script wrote has to be there."""
    if not record.folder.logs:
        tables = [entry.name for entry in record.folder.files if entry.suffix in (".tsv", ".csv")]
        hint = f"; {tables[0]} is a table, not what a script printed" if tables else ""
        yield error("no-log", f"no log of a run{hint}")
    for log in record.folder.logs:
        if not log.has_content:
            yield info("log-empty", "nothing of a training run was recognised in it", Evidence(log.file))


def script_and_readme(record: Record) -> Iterable[Finding]:
    """train_gpt.py and README.md have to be there.

    A folder with neither, nor any other code, is taken for an extract (logs and JSON alone) and gets an info;
    if it holds one of them, the other is missing.
    """
    folder = record.folder
    if not folder.scripts and folder.readme is None:
        yield info("no-script-no-readme", "neither a script nor a README: nothing about code was checked")
        return
    if not folder.scripts:
        yield error("no-script", "no Python script; a record needs its train_gpt.py")
    elif folder.script is None:
        names = ", ".join(script.file for script in folder.scripts[:4])
        yield warning("script-name", f"no train_gpt.py; which of {names} trains?")
    if folder.readme is None:
        yield error("no-readme", "no README.md")


def large_files(record: Record) -> Iterable[Finding]:
    """Weights and other large files do not belong in a pull request."""
    for entry in record.folder.files:
        if entry.num_bytes > MAX_COMMITTED_BYTES and entry.suffix not in (".log", ".txt", ".png"):
            yield info("large-file", f"{entry.num_bytes:,} bytes are committed", Evidence(entry.name))


def copied_logs(record: Record) -> Iterable[Finding]:
    """Copies of one log count once."""
    kept = {fingerprint(log): log for log in record.distinct_logs}
    for log in record.folder.logs:
        twin = kept.get(fingerprint(log))
        if log.scores and twin is not None and twin is not log and seed_of(twin) == seed_of(log):
            yield info("log-copy", f"is a copy of {twin.file}; counted once", Evidence(log.file))


RULES = (
    submission_complete,
    further_figures,
    logs_present,
    script_and_readme,
    large_files,
    copied_logs,
)
