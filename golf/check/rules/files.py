"""Rules on the files of a folder, its JSON and its code: they are there, parse, and state what they are."""

import re
import sys
from collections.abc import Iterable
from pathlib import PurePosixPath

from golf.check.claims import Record, fingerprint, is_stated, nearest, seed_of
from golf.check.findings import Evidence, Finding, Line, error, info, warning
from golf.check.scripts import RUNNING, Script

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


IMAGE_MODULES = frozenset(
    "torch numpy sentencepiece triton huggingface_hub datasets tqdm tiktoken kernels setuptools "
    "typing_extensions mlx".split()
)
"""What the challenge's own requirements install."""
INSTALLABLE_MODULES = frozenset(
    "zstandard brotli flash_attn flash_attn_interface flash_attn_3 einops scipy matplotlib pandas "
    "transformers tokenizers safetensors wandb psutil numba regex yaml requests sklearn constriction "
    "python_minifier lrzip torchao bitsandbytes fla causal_conv1d mamba_ssm xformers modal pyarrow rich tyro "
    "mup liger_kernel".split()
)
"""Known packages: absent from the requirements they are a warning, where an unknown module is an error."""

MAX_REQUIREMENTS_LINES = 500

_PACKAGE_NAMES = {"pyyaml": "yaml", "scikit_learn": "sklearn", "flash_linear_attention": "fla"}
"""Import names of packages that are imported under another name."""
_FLASH_ATTENTION = {"flash_attn", "flash_attn_3", "flash_attn_interface"}
_REQUIREMENT = re.compile(r"\s*#?[^A-Za-z]*(?:pip install\s+(?:--?\S+\s+)*)?([A-Za-z][\w.-]*)")

_FALLBACK = re.compile(r"except\b[^:\n]{0,120}:[ \t]{0,9}(?:#[^\n]{0,120})?\n?[^\n]{0,120}\bzlib\b")
_MEBIBYTES = re.compile(r"\b16 ?\* ?1024 ?\* ?1024\b|\b16 ?\* ?2 ?\*\* ?20\b|\b16_?777_?216\b|\b16 ?<< ?20\b")
_NETWORK = re.compile(r"\bhf_hub_download\(|\bsnapshot_download\(|\burlretrieve\(|\brequests\.get\(|\bwget\b")
_SOURCE_PATTERNS = (
    ("codec-fallback", _FALLBACK, "falls back to zlib where a codec is missing"),
    ("mebibytes", _MEBIBYTES, "compares with 16 MiB (16,777,216); the limit is 16,000,000"),
    ("network", _NETWORK, "can download; nothing may be fetched while evaluating"),
)
"""Infos on the main script: code, pattern, message."""


def parses(record: Record) -> Iterable[Finding]:
    """Each script has to parse on the Python it is run with; the running Python and older ones are tested."""
    pythons = {log.python for log in record.runs if log.python}
    ran = f"; the logs ran Python {', '.join(sorted(pythons))}" if pythons else ""
    for script in record.folder.scripts:
        verdict = script.verdict
        at = Evidence(script.file, verdict.line)
        subject = "the unpacked source " if script.codecs else ""
        if verdict.maybe_newer:
            text = f"Python {RUNNING}, which ran this check, cannot parse it ({verdict.message})"
            text = f"{subject}was not checked: {text}; a newer Python may{ran}"
            yield warning("script-syntax-unsure", text, at)
        elif not verdict.parses:
            level = error if script is record.folder.script else warning
            text = f"{subject}does not parse: {verdict.message} (tested with Python {RUNNING})"
            yield level("script-syntax", text, at)
        elif verdict.rejected_by:
            level = info if pythons and not pythons & set(verdict.rejected_by) else warning
            rejected = " and ".join(verdict.rejected_by)
            text = f"{subject}cannot run on Python {rejected}: {verdict.message}{ran}"
            yield level("script-python", text, at)


def imports_present(record: Record) -> Iterable[Finding]:
    """What a script imports has to be in the folder, its requirements, the image or the standard library."""
    folder = record.folder
    paths = [PurePosixPath(entry.name) for entry in folder.files]
    local = {path.stem for path in paths if path.suffix.lower() in (".py", ".so", ".c", ".cpp")}
    local |= {part for path in paths for part in path.parts[:-1]}
    present = sys.stdlib_module_names | IMAGE_MODULES | local | required_modules(folder.requirements.values())
    for script in folder.scripts:
        for module, line in script.imports.items():
            if module in present:
                continue
            at = Evidence(script.file, line, f"import {module}")
            named = folder.readme is not None and module in folder.readme[1]
            if script is not folder.script or module in INSTALLABLE_MODULES or named:
                text = f"imports {module}, which neither the folder nor its requirements hold"
                yield warning("script-import", text, at)
            else:
                text = f"imports {module}: not in the folder, the requirements or the standard library"
                yield error("script-import", text, at)


def required_modules(requirements: Iterable[str]) -> set[str]:
    """Modules that the texts of requirements files name, under their import names."""
    names: set[str] = set()
    for text in requirements:
        for line in text.split("\n")[:MAX_REQUIREMENTS_LINES]:
            if match := _REQUIREMENT.match(line):
                name = match.group(1).lower().replace("-", "_").replace(".", "_")
                names.add(_PACKAGE_NAMES.get(name, name))
            names |= {
                word for word in INSTALLABLE_MODULES if word.replace("_", "-") in line.lower() or word in line
            }
    return names | _FLASH_ATTENTION if names & {"flash_attn", "flash_attn_3"} else names


def packing(record: Record) -> Iterable[Finding]:
    """Says how a packed script was read, or that it was not."""
    for script in record.folder.scripts:
        if script.codecs:
            sizes = f"{script.num_bytes:,} bytes shipped, {script.unpacked_bytes:,} unpacked"
            text = f"packed with {' and '.join(script.codecs)}: {sizes}"
            yield info("script-packed", text, Evidence(script.file))
        if script.undecoded:
            yield warning("script-packed", f"was not unpacked: {script.undecoded}", Evidence(script.file))


def charged_code(record: Record) -> Iterable[Finding]:
    """The code size the logs charge has to be that of the shipped script, packed or not."""
    script = record.folder.script
    sizes = [size for log in record.runs for size in log.code_sizes]
    if script is None or not sizes:
        return
    all_scripts = sum(other.num_bytes for other in record.folder.scripts)
    known = {script.num_bytes, script.unpacked_bytes}
    last = sizes[-1]
    if last.num_bytes != all_scripts and not any(size.num_bytes in known for size in sizes):
        text = f"the logs charge {last.num_bytes:,} bytes of code; {script.file} has {script.num_bytes:,}"
        text += ": changed after the run?"
        yield warning("code-changed", text, last.line.evidence, Evidence(script.file))


def fallbacks(record: Record) -> Iterable[Finding]:
    """A missing codec replaced by zlib costs a megabyte (#274, #1463): in a log, or possible in a script."""
    for log in record.runs:
        for line in log.marks.get("fallback", [])[:1]:
            yield warning("codec-fallback", "a codec was missing and another was used", line.evidence)
    script = record.folder.script
    for code, pattern, text in _SOURCE_PATTERNS:
        if script and (match := pattern.search(script.source)):
            yield info(code, text, _line_at(script, match.start()))


def tracebacks(record: Record) -> Iterable[Finding]:
    """A traceback in a submitted log."""
    for log in record.runs:
        for line in log.marks.get("traceback", [])[:1]:
            final = log.final_score
            if final is not None and line.number > final.line.number:
                yield info("traceback", "a traceback after the final score", line.evidence)
            else:
                yield warning("traceback", "a traceback before any final score", line.evidence)


def _line_at(script: Script, position: int) -> Evidence:
    number = script.source.count("\n", 0, position) + 1
    name = f"{script.file} (unpacked)" if script.codecs else script.file
    return Line(name, number, script.source.split("\n")[number - 1]).evidence


RULES = (
    submission_complete,
    further_figures,
    logs_present,
    script_and_readme,
    large_files,
    copied_logs,
    parses,
    imports_present,
    packing,
    charged_code,
    fallbacks,
    tracebacks,
)
