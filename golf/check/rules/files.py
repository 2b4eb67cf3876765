"""Rules on what a folder holds and whether its JSON can be read."""

from collections.abc import Iterable

from golf.check.claims import distinct_logs, fingerprint, seed_of
from golf.check.findings import Evidence, Finding, defect, doubt, note
from golf.check.folder import Folder

_LARGE_BYTES = 1_000_000


def reading(folder: Folder) -> Iterable[Finding]:
    """What reading the folder came upon: links, files that cannot be read, invalid JSON."""
    yield from folder.problems


def submission_present(folder: Folder) -> Iterable[Finding]:
    """submission.json has to be there, under that name."""
    if folder.submission is None:
        yield defect("no-submission", "no submission.json")
    elif folder.submission.file != "submission.json":
        text = "the JSON is not called submission.json"
        yield note("submission-name", text, Evidence(folder.submission.file))


def submission_complete(folder: Folder) -> Iterable[Finding]:
    """submission.json has to hold a score, a name and who made it."""
    submission = folder.submission
    if submission is None or not submission.raw:
        return
    if "val_bpb" not in submission.figures:
        odd = submission.odd.get("val_bpb")
        text = f"val_bpb is no number ({odd})" if odd else "val_bpb is missing"
        yield defect("json-no-score", text, Evidence(submission.file))
    elif submission.figures["val_bpb"].was_text:
        yield note("json-text-number", "val_bpb is written as text", submission.evidence("val_bpb"))
    missing = [name for name in ("name", "author", "github_id") if not submission.names.get(name)]
    if missing:
        yield doubt("json-who", f"{', '.join(missing)} missing or empty", Evidence(submission.file))
    expected = ("val_bpb", "val_bpb_std", "val_loss_std")
    odd = {meaning: text for meaning, text in submission.odd.items() if meaning not in expected}
    if odd:
        text = f"no number under {', '.join(sorted(odd.values()))}"
        yield note("json-no-number", text, Evidence(submission.file))


def logs_present(folder: Folder) -> Iterable[Finding]:
    """The log the script made has to be there."""
    if not folder.logs:
        tables = [entry.name for entry in folder.files if entry.suffix in (".tsv", ".csv")]
        hint = f"; {tables[0]} is a table, not what a script printed" if tables else ""
        yield defect("no-log", f"no log of a run{hint}")
        return
    for log in folder.logs:
        if not log.has_content:
            yield note("log-empty", "nothing of a training run was recognised in it", Evidence(log.file))


def script_and_readme_present(folder: Folder) -> Iterable[Finding]:
    """train_gpt.py and README.md have to be there.

    A folder with neither, nor any other code, is taken for a cut of one (logs and JSON alone), and only said
    to be so; with one of them there, the other is missing.
    """
    if not folder.scripts and folder.readme is None:
        yield note("no-script-no-readme", "neither a script nor a README: nothing about code was checked")
        return
    if not folder.scripts:
        yield defect("no-script", "no Python script; a record needs its train_gpt.py")
    elif folder.script is None:
        names = ", ".join(script.file for script in folder.scripts[:4])
        yield doubt("script-name", f"no train_gpt.py; which of {names} trains?")
    if folder.readme is None:
        yield defect("no-readme", "no README.md")


def large_files(folder: Folder) -> Iterable[Finding]:
    """Weights and other large files do not belong into a pull request."""
    for entry in folder.files:
        if entry.num_bytes > _LARGE_BYTES and entry.suffix not in (".log", ".txt", ".png"):
            text = f"{entry.num_bytes:,} bytes committed beside the record"
            yield note("large-file", text, Evidence(entry.name))


def copied_logs(folder: Folder) -> Iterable[Finding]:
    """Copies of one log count once."""
    kept = {fingerprint(log): log for log in distinct_logs(folder)}
    for log in folder.logs:
        twin = kept.get(fingerprint(log))
        if log.scores and twin is not None and twin is not log and seed_of(twin) == seed_of(log):
            text = f"is a copy of {twin.file}; counted once"
            yield note("log-copy", text, Evidence(log.file))


RULES = (
    reading,
    submission_present,
    submission_complete,
    logs_present,
    script_and_readme_present,
    large_files,
    copied_logs,
)
