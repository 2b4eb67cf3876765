"""A pull request to openai/parameter-golf: what of an entry goes into it, its checks, its title and its text.

The challenge asks for one new folder under records/ with README.md, submission.json, the logs that the script
wrote, train_gpt.py, and requirements.txt where packages are needed. The rest of an entry stays behind.
"""

import datetime
import math
import platform
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from golf.check.check import check_folder
from golf.check.findings import Finding
from golf.check.logs import charged_total, numbered, parse_log
from golf.data.reference import CANONICAL_BYTES, text_of_size
from golf.entry.challenge_run import Layout, ScriptRun, Text, find_text, run_in_layout
from golf.entry.clone import commands_to_type, ignored_files, require_clone, require_free
from golf.entry.compare import THRESHOLD_NATS, CompareError, EntryScores, compare, read_scores
from golf.entry.leaderboard import LEADERBOARD
from golf.entry.readme import entry_templates
from golf.entry.results import EntryError, read_entry_results, read_json
from golf.entry.runs import RECORD_TRACKS, TEN_MINUTES_SECONDS
from golf.entry.submission import TOOLKIT, entry_figures, find_identity
from golf.pack.fit import LIMIT_BYTES
from golf.results import Results
from golf.run_folder import EntryFolder
from golf.stats import Sample
from golf.system.files import sha256_of_file, write_json
from golf.system.foreign import read_text

RECORD_TRACK = "track_10min_16mb"
MIN_RECORD_SEEDS = 3
RECORD_GPUS = 8
MAX_README_BYTES = 1 << 20
MAX_LOG_BYTES = 1 << 28
NOBODY = ("", TOOLKIT, "unknown")
"""What an entry says where it does not know who submits it."""
TRACK_NAMES = {RECORD_TRACK: "10min_16mb", "track_non_record_16mb": "non-record-16mb"}
"""What submission.json of the challenge calls its tracks."""
JSON_TYPES: dict[str, type] = {
    **dict.fromkeys(("author", "github_id", "name", "blurb", "date", "track", "hardware"), str),
    **dict.fromkeys(("val_bpb", "val_loss"), float),
    **dict.fromkeys(("bytes_total", "bytes_code"), int),
    "seeds": list,
    "seed_results": dict,
}
"""The keys of submission.json that the challenge's own folders have, and their types."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)[^)]*\)")
_REPRODUCE = re.compile(r"^## Reproduce\n.*?(?=^## |\Z)", re.M | re.S)
_EMPTY_SECTION = re.compile(r"^## [^\n]*\n\s*(?=^## |\Z)", re.M)

Result = Literal["passed", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One check of the folder; a warning keeps nothing back, but a reviewer will ask about it."""

    name: str
    result: Result
    detail: str


@dataclass(frozen=True)
class Asked:
    """What goes into the pull request, and how it is checked."""

    track: str
    data: Path | None = None
    """Text for the trial of the script: a dataset folder, or shards."""
    seconds: float = 5.0
    """Of training in that trial; 0 runs nothing."""
    against: Path | None = None
    """Record folder to beat; by default the best public score."""
    extra: tuple[str, ...] = ()
    """Names of further files of the entry to copy."""
    author: str = ""
    github_id: str = ""


@dataclass(frozen=True)
class PullRequest:
    """A folder in the clone, and all that is needed to submit it."""

    target: Path
    checks: tuple[Check, ...]
    title: str
    body: str
    commands: tuple[str, ...]
    """To type, in this order."""
    last_lines: tuple[str, ...] = field(default=())
    """What the script printed last, where it failed."""

    @property
    def ready(self) -> bool:
        """Whether no check failed or was skipped."""
        return all(check.result in ("passed", "warning") for check in self.checks)


def track_of(entry: Path, asked: str | None) -> str:
    """The folder under records/: as asked, else the entry's own; ValueError for an entry of a trial run."""
    own = entry.resolve().parent.name
    if asked is None and own not in RECORD_TRACKS:
        raise EntryError(f"{entry}: lies in {own}/, which is no track of the challenge; give --record-track")
    return asked or own


def make_pull_request(entry: Path, clone: Path, asked: Asked) -> PullRequest:
    """Copies an entry into a clone of the challenge and checks the copy there.

    The copy stays where the checks end, passed or not. EntryError for an entry without results, CloneError
    for what is no clone or has the folder already, ValueError for a text or a file that does not fit; then,
    and when this is interrupted, nothing is left in the clone.
    """
    files, results = EntryFolder(entry), read_entry_results(EntryFolder(entry).results)
    require_clone(clone)
    target = clone / "records" / asked.track / entry.resolve().name
    require_free(clone, target)
    for name in asked.extra:
        if Path(name).name != name or not (entry / name).is_file():
            raise EntryError(f"--with {name}: {entry} has no such file")
    runs = list(results.values())
    stored = read_json(files.submission)
    named = {name: str(stored.get(name, "")) for name in ("author", "github_id")}
    own = {name: "" if value in NOBODY else value for name, value in named.items()}
    identity = find_identity(clone, asked.author or own["author"], asked.github_id or own["github_id"])
    figures = challenge_figures(runs, stored, identity, asked.track)
    # Before the block that removes it: not a folder that another process has just made.
    target.mkdir()
    try:
        copy_entry(files, target, runs, stored, figures, asked)
        script = None
        text = find_text(Layout.of(runs[0]), clone, entry, asked.data)
        if text is not None and asked.seconds:
            script = run_in_layout(target, text, runs[0], asked.seconds)
        checks = [
            *check_copy(files, target, clone, runs, figures),
            script_check(script, text, runs[0]),
            audit_check(files),
            *track_checks(entry, runs, figures, asked),
        ]
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    title = title_of(figures, checks, asked.track)
    body = (
        entry_templates()
        .get_template("pull_request.md.j2")
        .render(
            figures=figures,
            checks=[check for check in checks if check.result in ("passed", "warning")],
            limit=LIMIT_BYTES,
            folder=f"records/{asked.track}/{target.name}",
            text=text_of_size(runs[0].final.tally.num_bytes),
            data=runs[0].data.name,
            commands=commands_to_reproduce(target, runs),
        )
    )
    last_lines = script.last_lines if script is not None else ()
    commands = tuple(commands_to_type(clone, target, title))
    return PullRequest(target, tuple(checks), title, body, commands, last_lines)


def challenge_figures(
    runs: Sequence[Results], stored: dict[str, Any], identity: dict[str, str], track: str
) -> dict[str, Any]:
    """submission.json in the challenge's keys: texts as `stored` in the entry, figures of its results."""
    found = entry_figures(runs)
    told = {name: stored.get(name, "") for name in ("name", "blurb", "date")}
    seeds = {
        seed: {name: each[name] for name in ("val_bpb", "val_loss", "bytes_total", "bytes_code", "steps")}
        | {"train_seconds": each["train_seconds"], "eval_time_seconds": each["eval_seconds"]}
        for seed, each in found["seed_results"].items()
    }
    figures = {
        **identity,
        **told,
        "track": TRACK_NAMES[track],
        **{name: found[name] for name in ("val_loss", "val_bpb", "val_loss_std", "val_bpb_std")},
        "seeds": found["seeds"],
        "seed_results": seeds,
        "pre_quant_val_bpb": found["pre_quant_val_bpb"],
        "bytes_total": found["bytes_total"],
        "bytes_code": found["bytes_code"],
        "wallclock_seconds": found["train_seconds"],
        "eval_time_seconds": found["eval_seconds"],
        "hardware": found["hardware"],
        "pytorch_version": found["versions"].get("torch"),
    }
    return {name: value for name, value in figures.items() if value is not None}


def copy_entry(
    entry: EntryFolder,
    target: Path,
    runs: Sequence[Results],
    stored: dict[str, Any],
    figures: dict[str, Any],
    asked: Asked,
) -> None:
    """Writes the files of the pull request; what the entry lacks is left out, and a check says so."""
    wanted = [entry.script, entry.requirements, *(entry.log(run.seed) for run in runs)]
    copied = [path.name for path in wanted if path.is_file()] + list(asked.extra)
    for name in copied:
        shutil.copyfile(entry.path / name, target / name)
    write_json(target / entry.submission.name, figures)
    if entry.readme.is_file():
        present = {*copied, entry.submission.name, entry.readme.name}
        brought = {path.name for path in entry.path.iterdir() if path.is_file()}
        brought |= {entry.artifact(run.seed).name for run in runs}
        brought |= {f"data/{path.name}" for path in (entry.path / "data").glob("*")}
        text = read_text(entry.readme, MAX_README_BYTES)
        for old, new in (
            (f"By {stored.get('author')} ({stored.get('github_id')})",
             f"By {figures['author']} ({figures['github_id']})"),
            (f"track `{stored.get('track')}`", f"track `{asked.track}`"),
        ):  # fmt: skip
            text = text.replace(old, new)
        text = fit_readme(text, sorted(brought - present), reproduce_section(target, runs))
        (target / entry.readme.name).write_text(text, encoding="utf-8")


def fit_readme(text: str, absent: Sequence[str], reproduce: str) -> str:
    """A README for a folder without the files `absent`, with `reproduce` as its section of that name.

    Their pictures are dropped, links to them keep their words, and where they are named otherwise it is said
    that they are not in the folder. All else stays as it was written.
    """
    if not _REPRODUCE.search(text):
        text = f"{text.rstrip()}\n\n## Reproduce\n"
    text = _REPRODUCE.sub(lambda _: f"{reproduce}\n", text)

    def without_link(match: re.Match[str]) -> str:
        if match[3].removeprefix("./") not in absent:
            return match[0]
        return "" if match[1] else match[2]

    lines = []
    for line in text.split("\n"):
        changed = _LINK.sub(without_link, line)
        if changed.strip() or not line.strip():
            lines.append(changed)
    text = "\n".join(lines)
    for name in absent:
        text = text.replace(f" (`{name}`)", "")
        alone = rf"`{re.escape(name)}`|(?<![\w./`-]){re.escape(name)}(?![\w/-]|\.\w)"
        text = re.sub(alone, r"\g<0> (not in this folder)", text)
    text = _EMPTY_SECTION.sub("", text)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def commands_to_reproduce(target: Path, runs: Sequence[Results]) -> list[str]:
    """Shell commands that make the runs again, typed at the top of the challenge's repository."""
    gpus = re.match(r"(\d+) ?x ", str(runs[0].environment.get("hardware", "")))
    start = f"torchrun --standalone --nproc_per_node={gpus[1] if gpus else 1} train_gpt.py"
    lines = [f"cd {shlex.quote('/'.join(target.parts[-3:]))}", "pip install -r requirements.txt"]
    for run in runs:
        variables = Layout.of(run).variables | {"SEED": str(run.seed), "RUN_ID": f"seed{run.seed}"}
        lines.append(" ".join([*(f"{name}={value}" for name, value in variables.items()), start]))
    return lines


def reproduce_section(target: Path, runs: Sequence[Results]) -> str:
    """The section of the README on how to run the script in the challenge's repository."""
    own = text_of_size(runs[0].final.tally.num_bytes) == "challenge"
    whose = "the challenge's shards and tokenizer" if own else f"shards and tokenizer of {runs[0].data.name}"
    commands = "\n".join(commands_to_reproduce(target, runs))
    return (
        f"## Reproduce\n\nWith {whose} under `data/` of the repository:\n\n```\n{commands}\n```\n\nA run "
        "trains, packs, decodes the artifact from its bytes in a fresh process and scores that. It writes "
        "`logs/RUN_ID.txt` and `final_model_RUN_ID.bin`.\n"
    )


def check_copy(
    entry: EntryFolder, target: Path, clone: Path, runs: Sequence[Results], figures: dict[str, Any]
) -> list[Check]:
    """The checks of the folder's files, none of which runs anything."""
    copy = EntryFolder(target)
    return [
        _files_check(copy, clone, runs),
        _json_check(copy),
        _identity_check(figures),
        _readme_check(copy, figures),
        _compiles_check(copy),
        _size_check(entry, copy, runs),
        _log_check(copy, figures),
        _folder_check(copy),
    ]


def _verdict(name: str, problems: Sequence[str], passed: str) -> Check:
    return Check(name, "failed", "; ".join(problems)) if problems else Check(name, "passed", passed)


def _files_check(copy: EntryFolder, clone: Path, runs: Sequence[Results]) -> Check:
    """All files are there, and git takes them: rules for *.log or *.json in a .gitignore are common."""
    wanted = [copy.readme, copy.submission, copy.script, *(copy.log(run.seed) for run in runs)]
    problems = [f"the entry has no {path.name}" for path in wanted if not path.is_file()]
    present = sorted(path for path in copy.path.iterdir())
    if ignored := ignored_files(clone, present):
        problems.append(f"git ignores {', '.join(ignored)}: add them with `git add -f`, or change .gitignore")
    num_bytes = sum(path.stat().st_size for path in present)
    return _verdict("files", problems, f"{', '.join(path.name for path in present)}: {num_bytes:,} bytes")


def _json_check(copy: EntryFolder) -> Check:
    found, problems = read_json(copy.submission), []
    for key, kind in JSON_TYPES.items():
        value = found.get(key)
        if not isinstance(value, kind) or value in ("", [], {}):
            problems.append(f"{key} is {value!r:.60}; expected a value of type {kind.__name__}")
    try:
        datetime.date.fromisoformat(str(found.get("date"))[:10])
    except ValueError:
        problems.append(f"date is {found.get('date')!r}; expected YYYY-MM-DD")
    return _verdict("submission.json", problems, f"{len(found)} keys in the challenge's words")


def _identity_check(figures: dict[str, Any]) -> Check:
    nobody = [name for name in ("author", "github_id") if figures[name] in NOBODY]
    problems = [f"{' and '.join(nobody)} unknown: give --author and --github-id"] if nobody else []
    return _verdict("author", problems, f"{figures['author']}, {figures['github_id']} on GitHub")


def _readme_check(copy: EntryFolder, figures: dict[str, Any]) -> Check:
    if not copy.readme.is_file():
        return Check("README.md", "failed", "the entry has none")
    text = read_text(copy.readme, MAX_README_BYTES)
    targets = [match[3].partition("#")[0] for match in _LINK.finditer(text)]
    dead = [to for to in targets if to and ":" not in to and not (copy.path / to).exists()]
    problems = [f"points to {to}, which is not in the folder" for to in dict.fromkeys(dead)]
    bpb = figures["val_bpb"]
    if not any(f"{bpb:.{digits}f}" in text for digits in range(3, 9)):
        problems.append(f"does not state val_bpb {bpb:.4f}")
    return _verdict("README.md", problems, f"states val_bpb {bpb:.4f}, and points to nothing that is missing")


def _compiles_check(copy: EntryFolder) -> Check:
    try:
        compile(read_text(copy.script, 2 * LIMIT_BYTES), copy.script.name, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Check("script compiles", "failed", str(error))
    return Check("script compiles", "passed", f"{copy.script.name}, by Python {platform.python_version()}")


def _size_check(entry: EntryFolder, copy: EntryFolder, runs: Sequence[Results]) -> Check:
    """Bytes of the script as copied, and of each seed's artifact, as recorded where its file is gone."""
    problems, totals, recorded = [], [], []
    code_bytes = copy.script.stat().st_size if copy.script.is_file() else 0
    code_sha256 = sha256_of_file(copy.script) if code_bytes else ""
    for run in runs:
        packing, artifact = run.packing, entry.artifact(run.seed)
        if code_sha256 != packing.code_sha256:
            problems.append(f"train_gpt.py is not the script that seed {run.seed} charged, by its sha256")
        if not artifact.is_file():
            recorded.append(run.seed)
        elif sha256_of_file(artifact) != packing.artifact_sha256:
            problems.append(f"{artifact.name} is not the artifact that was scored, by its sha256")
        totals.append(code_bytes + packing.artifact_bytes)
    if max(totals) > LIMIT_BYTES:
        problems.append(f"code and weights are {max(totals):,} bytes; the limit is {LIMIT_BYTES:,}")
    gone = f"; weights of seed {', '.join(map(str, recorded))} as recorded" if recorded else ""
    left = f"{LIMIT_BYTES - max(totals):,} below the limit"
    return _verdict("size", problems, f"{max(totals):,} bytes of code and weights, {left}{gone}")


def _log_check(copy: EntryFolder, figures: dict[str, Any]) -> Check:
    """Each seed's log states the figures that submission.json claims of it."""
    problems, means = [], []
    for seed, claimed in figures["seed_results"].items():
        path = copy.log(int(seed))
        if not path.is_file():
            problems.append(f"there is no log of seed {seed}")
            continue
        log = parse_log(path.name, numbered(read_text(path, MAX_LOG_BYTES)))
        score, total = log.final_score, charged_total(log.sizes)
        if score is None or abs(score.val_bpb - claimed["val_bpb"]) > score.resolution:
            stated = "no final score" if score is None else f"val_bpb {score.val_bpb:.8g}"
            problems.append(f"{path.name} states {stated}; claimed are {claimed['val_bpb']:.8g}")
        elif score.val_loss is not None:
            if not math.isclose(score.val_loss, claimed["val_loss"], rel_tol=1e-4):
                problems.append(f"{path.name}: val_loss {score.val_loss:.8g}, not {claimed['val_loss']:.8g}")
            means.append(score.val_bpb)
        if total is None or total.num_bytes != claimed["bytes_total"]:
            stated = "no total size" if total is None else f"{total.num_bytes:,} bytes"
            problems.append(f"{path.name} states {stated}; claimed are {claimed['bytes_total']:,}")
    return _verdict("log", problems, "each seed's states its score, loss and size as claimed")


def _folder_check(copy: EntryFolder) -> Check:
    """`golf check`, as a reviewer would run it."""
    report = check_folder(copy.path)
    found = {
        level: [f for f in report.findings if f.level == level] for level in ("error", "warning", "info")
    }
    if report.error or found["error"]:
        return Check("golf check", "failed", report.error or _listed(found["error"]))
    if found["warning"]:
        return Check("golf check", "warning", _listed(found["warning"]))
    infos = ", ".join(dict.fromkeys(finding.code for finding in found["info"]))
    return Check("golf check", "passed", f"no error, no warning{f'; infos: {infos}' if infos else ''}")


def _listed(findings: Sequence[Finding]) -> str:
    return "; ".join(f"{finding.code}: {finding.message}" for finding in findings[:3])


def script_check(run: ScriptRun | None, text: Text | None, first: Results) -> Check:
    """That the script trains, packs and scores in the challenge's layout."""
    name, layout = "script runs", Layout.of(first)
    if run is None:
        why = "not asked for (--seconds 0)"
        if text is None:
            pieces = f"a dataset of {layout.vocab_size:,} pieces"
            why = f"no text: give --data DIR, {pieces}, or put the challenge's data into the clone"
        return Check(name, "skipped", why)
    if run.failure:
        return Check(name, "failed", f"{run.failure} (on {run.source})")
    return Check(
        name,
        "passed",
        f"under torchrun --standalone --nproc_per_node=1 in a copy of the folder: {run.steps} steps, packed "
        f"and scored in {run.seconds:.0f} s on {run.source}",
    )


def audit_check(entry: EntryFolder) -> Check:
    """That the legality probes passed on the scorer, which entries of trial runs need not have."""
    if not entry.audit.is_file():
        return Check("audit", "warning", "not audited: `golf score ENTRY --audit --data DIR` does it")
    passed = read_json(entry.audit).get("passed") is True
    told = "the legality probes passed" if passed else "the legality probes did not pass; see audit.json"
    return _judged("audit", passed, told)


def track_checks(entry: Path, runs: Sequence[Results], figures: dict[str, Any], asked: Asked) -> list[Check]:
    """What the track's rules say of the figures; warnings only, for the maintainers decide."""
    tally, is_record = runs[0].final.tally, asked.track == RECORD_TRACK
    whole = text_of_size(tally.num_bytes) == "challenge" and not runs[0].partial
    of = f"{tally.num_bytes:,} bytes of {runs[0].data.name}"
    expected = f"expected all {CANONICAL_BYTES / 1e6:.2f} million of the challenge"
    checks = [_judged("validation text", whole, of if whole else f"{of}; {expected}")]
    if not is_record:
        return checks
    seeds, hardware = len(runs), str(figures["hardware"])
    times = [
        (name, figures[key])
        for name, key in (("training", "wallclock_seconds"), ("evaluation", "eval_time_seconds"))
    ]
    fast = all(seconds <= TEN_MINUTES_SECONDS for _, seconds in times)
    is_box = hardware.startswith(f"{RECORD_GPUS} x") and "H100" in hardware
    told = " and ".join(f"{name} {seconds:,.1f} s" for name, seconds in times)
    return [
        *checks,
        _judged("seeds", seeds >= MIN_RECORD_SEEDS, f"{seeds}; a record has {MIN_RECORD_SEEDS}"),
        _judged("hardware", is_box, f"{hardware}; the track means {RECORD_GPUS}xH100"),
        _judged("time", fast, f"{told}; each at most {TEN_MINUTES_SECONDS:,.0f} s"),
        _record_check(entry, asked.against),
    ]


def _judged(name: str, holds: bool, detail: str) -> Check:
    return Check(name, "passed" if holds else "warning", detail)


def _record_check(entry: Path, against: Path | None) -> Check:
    """Whether the entry beats the record by the written rule: 0.005 nats at p < 0.01."""
    name = "record"
    try:
        own, other = read_scores(entry), best_public() if against is None else read_scores(against)
        found = compare(own, other)
    except CompareError as error:
        return Check(name, "warning", str(error))
    rule = found.thresholds[0]
    holds = rule.p is not None and rule.p < rule.max_p
    p = "no p, of one seed" if rule.p is None else f"p = {rule.p:.2g}"
    return _judged(
        name,
        holds,
        f"{own.sample.mean:.5f} against {other.sample.mean:.5f} of {other.name}: the gain, {found.gain:.5f} "
        f"bpb, is {found.gain / rule.bpb:.2f} times {THRESHOLD_NATS} nats {rule.reading}, {p}; the rule asks "
        f"p < {rule.max_p:g}",
    )


def best_public() -> EntryScores:
    """The best score of the ten-minute track that this toolkit knows, as exact: its seeds are not here."""
    rows = [row for row in LEADERBOARD if row.text == "challenge" and row.hardware == "8xH100"]
    row = min((row for row in rows if row.train_minutes == 10.0), key=lambda row: row.bpb)
    source = f"#{row.pull_request}"
    return EntryScores(source, Sample(row.bpb, None, 1), source, validation_bytes=CANONICAL_BYTES)


def title_of(figures: dict[str, Any], checks: Sequence[Check], track: str) -> str:
    """The title: Record where the rule holds, else the track; name, score and seeds."""
    kind = "Non-record" if track != RECORD_TRACK else "10min_16mb"
    if any(check.name == "record" and check.result == "passed" for check in checks):
        kind = "Record"
    seeds = len(figures["seeds"])
    over = f"{seeds}-seed mean" if seeds > 1 else "one seed"
    return f"{kind}: {figures['name']}, val_bpb {figures['val_bpb']:.4f} ({over})"
