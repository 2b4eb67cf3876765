"""Rules on the files of a folder, its JSON and its code: they are there, parse, and state what they are."""

import re
import sys
from collections.abc import Iterable
from pathlib import PurePosixPath

from golf.check.findings import Finding, Quote, error, info, warning
from golf.check.record import Record, fingerprint, is_readme, is_stated, nearest, seed_of
from golf.check.scripts import RUNNING

MAX_COMMITTED_BYTES = 1_000_000
"""A larger file does not belong in a pull request."""
IMAGE_MODULES = frozenset(
    "torch numpy sentencepiece triton huggingface_hub datasets tqdm tiktoken kernels setuptools "
    "typing_extensions mlx".split()
)
"""What the challenge's own requirements install."""
INSTALLABLE_MODULES = frozenset(
    "zstandard brotli flash_attn flash_attn_interface flash_attn_3 einops scipy matplotlib pandas "
    "transformers tokenizers safetensors wandb psutil numba regex yaml requests sklearn constriction "
    "python_minifier lrzip torchao bitsandbytes fla causal_conv1d mamba_ssm xformers modal pyarrow rich "
    "tyro mup liger_kernel tensorboard torchvision torchaudio lz4 zstd blosc blosc2 jax jaxlib flax "
    "optax ml_dtypes accelerate deepspeed peft cut_cross_entropy apex pynvml ray boto3 joblib cython "
    "Cython pybind11 ninja nltk fast_hadamard_transform hadamard quack cutlass tilelang seaborn plotly "
    "sympy networkx statsmodels dotenv omegaconf hydra httpx aiohttp cloudpickle dill bitarray "
    "rangecoder zopfli pyppmd ppmd msgpack evaluate torchmetrics torchdata lightning pytorch_lightning "
    "lion_pytorch schedulefree heavyball spacy faiss xxhash mmh3 ftfy pytest packaging attr attrs "
    "pydantic click typer GPUtil runpod transformer_engine cupy blake3 mlx_lm torch_xla tabulate "
    "colorama termcolor openai anthropic intel_extension_for_pytorch cuda nvtx nvidia_ml_py deep_ep "
    "cvxpy ortools optuna".split()
)
"""Known packages: absent from the requirements they are an info, where an unknown module is an error."""
LOCAL_NAMES = frozenset("utils util common helpers config model models data lib src core train optim".split())
"""Modules that are somebody's own, as are names with an underscore; any other may be a package."""
MAX_REQUIREMENTS_LINES = 500

_PACKAGE_NAMES = {"pyyaml": "yaml", "scikit_learn": "sklearn", "flash_linear_attention": "fla"}
"""Import names of packages that are imported under another name."""
_FLASH_ATTENTION = {"flash_attn", "flash_attn_3", "flash_attn_interface"}
_LIKE_SCRIPT = re.compile(r"\.ipynb$|train[\w.-]*\.(?:py\.txt|sh)$|train_gpt[\w-]*\.txt$", re.I)
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


def submission_complete(record: Record) -> Iterable[Finding]:
    """submission.json has to be there, with a score, a name and an author."""
    submission = record.submission
    if submission is None:
        yield error("no-submission", "no submission.json")
        return
    at = Quote(submission.file)
    if submission.file != "submission.json":
        yield info("submission-name", "the JSON is not called submission.json", at)
    if not submission.raw:
        return
    bpb, odd = submission.figures.get("val_bpb"), dict(submission.odd)
    if bpb is None:
        found = f"is no measurement ({odd['val_bpb']})" if "val_bpb" in odd else "is missing"
        yield error("json-no-score", f"val_bpb {found}", at)
    elif submission.inner:
        text = f"val_bpb stands under {submission.inner}, not in the JSON itself"
        yield warning("json-no-score", text, bpb.at)
    elif bpb.was_text:
        yield info("json-text-number", "val_bpb is written as text", bpb.at)
    if missing := [name for name in ("name", "author", "github_id") if not submission.names.get(name)]:
        yield info("json-who", f"{', '.join(missing)} missing or empty", at)
    for optional in ("val_bpb", "val_bpb_std", "val_loss_std"):
        odd.pop(optional, None)
    if odd:
        yield info("json-no-number", f"no measurement under {', '.join(sorted(odd.values()))}", at)


def further_figures(record: Record) -> Iterable[Finding]:
    """Steps, weights and the score before quantisation have to be the logs', unless the JSON is foreign."""
    if record.foreign:
        yield record.foreign
    for meaning in ("steps", "bytes_model", "pre_quant_val_bpb"):
        figure, values = record.own_figure(meaning), record.stated[meaning]
        if figure and values and not is_stated(figure, values):
            text = f"{figure} is stated by no log; the nearest is {nearest(figure, values):,.10g}"
            yield info("figure-unsupported", text, figure.at)


def present(record: Record) -> Iterable[Finding]:
    """The log that the script wrote, train_gpt.py and README.md have to be there, and nothing large.

    A folder with neither a README nor any code is taken for an extract (logs and JSON alone). Copies of
    one log count once.
    """
    if not record.logs:
        tables = [entry.name for entry in record.files if entry.suffix in (".tsv", ".csv")]
        hint = f"; {tables[0]} is a table, not what a script printed" if tables else ""
        yield error("no-log", f"no log of a run{hint}")
    kept = {fingerprint(log): log for log in record.distinct_logs}
    for log in record.logs:
        twin = kept.get(fingerprint(log), log)
        if not log.has_content:
            yield info("log-empty", "nothing of a training run was recognised in it", Quote(log.file))
        elif log.scores and twin is not log and seed_of(twin) == seed_of(log):
            yield info("log-copy", f"is a copy of {twin.file}; counted once", Quote(log.file))
    yield from _scripts_present(record)
    if record.scripts and record.readme is None:
        nested = [entry.name for entry in record.files if is_readme(entry)][:1]
        yield error("no-readme", "no README.md" + "".join(f"; {name} is a subfolder's" for name in nested))
    for entry in record.files:
        if entry.num_bytes > MAX_COMMITTED_BYTES and entry.suffix not in (".log", ".txt", ".png"):
            yield info("large-file", f"{entry.num_bytes:,} bytes are committed", Quote(entry.name))


def _scripts_present(record: Record) -> Iterable[Finding]:
    """The script that trains has to be in the folder itself, as Python."""
    names = ", ".join(script.file for script in record.scripts[:4])
    if not record.scripts:
        alike = [
            e.name
            for e in record.files
            if e.suffix in (".ipynb", ".sh", ".txt") and _LIKE_SCRIPT.search(e.name)
        ]
        hint = "".join(f"; {name} is none" for name in alike[:1])
        if record.readme is None:
            text = "neither a script nor a README: nothing about code was checked"
            yield warning("no-script", text + hint)
        else:
            yield error("no-script", "no Python script; a record needs its train_gpt.py" + hint)
    elif not any(script.trains for script in record.scripts):
        yield error("no-script", f"no script that trains; {names} does not")
    elif record.script is None:
        yield info("script-name", f"no train_gpt.py; which of {names} trains?")
    elif "/" in record.script.file:
        text = f"no script that trains in the folder itself; {record.script.file} is a subfolder's"
        yield warning("script-name", text, Quote(record.script.file))


def parses(record: Record) -> Iterable[Finding]:
    """Each script has to parse on the Python it is run with; the running Python and older ones are tested."""
    pythons = {log.python for log in record.runs if log.python}
    ran = f"; the logs ran Python {', '.join(sorted(pythons))}" if pythons else ""
    for script in record.scripts:
        verdict = script.verdict
        at = Quote(script.file, verdict.line)
        subject = "the unpacked source " if script.codecs else ""
        if verdict.maybe_newer:
            text = f"Python {RUNNING}, which ran this check, cannot parse it ({verdict.message})"
            text = f"{subject}was not checked: {text}; a newer Python may{ran}"
            yield info("script-syntax-unsure", text, at)
        elif not verdict.parses and script.codecs:
            text = f"the text unpacked from it does not parse ({verdict.message}): it was not checked"
            yield info("script-syntax-unsure", text, at)
        elif not verdict.parses:
            level = error if script is record.script else warning
            level = info if "/" in script.file and script is not record.script else level
            text = f"{subject}does not parse: {verdict.message} (tested with Python {RUNNING})"
            yield level("script-syntax", text, at)
        elif verdict.rejected_by:
            level = warning if pythons & set(verdict.rejected_by) else info
            text = f"cannot run on Python {' and '.join(verdict.rejected_by)}: {verdict.message}{ran}"
            yield level("script-python", subject + text, at)


def imports_present(record: Record) -> Iterable[Finding]:
    """What a script imports has to be in the folder, its requirements, the image or the standard library."""
    paths = [PurePosixPath(entry.name) for entry in record.files]
    local = {path.stem for path in paths if path.suffix.lower() in (".py", ".so", ".c", ".cpp")}
    local |= {part for path in paths for part in path.parts[:-1]}
    present = sys.stdlib_module_names | IMAGE_MODULES | local | required_modules(record.requirements.values())
    for script in record.scripts:
        for module, line in script.imports.items():
            if module in present:
                continue
            at = Quote(script.file, line, f"import {module}")
            named = record.readme is not None and module in record.readme[1]
            if script is not record.script or module in INSTALLABLE_MODULES or named:
                text = f"imports {module}, which neither the folder nor its requirements hold"
                yield info("script-import", text, at)
            else:
                text = f"imports {module}: not in the folder, the requirements or the standard library"
                level = error if "_" in module or module in LOCAL_NAMES else warning
                yield level("script-import", text, at)


def required_modules(requirements: Iterable[str]) -> set[str]:
    """Modules that the texts of requirements files name, under their import names."""
    names: set[str] = set()
    for line in (line for text in requirements for line in text.split("\n")[:MAX_REQUIREMENTS_LINES]):
        if match := _REQUIREMENT.match(line):
            name = match.group(1).lower().replace("-", "_").replace(".", "_")
            names.add(_PACKAGE_NAMES.get(name, name))
        lowered = line.lower()
        names |= {word for word in INSTALLABLE_MODULES if word.replace("_", "-") in lowered or word in line}
    return names | _FLASH_ATTENTION if names & {"flash_attn", "flash_attn_3"} else names


def code_size(record: Record) -> Iterable[Finding]:
    """How a packed script was read; the size the logs charge has to be that of the shipped script."""
    for script in record.scripts:
        if script.codecs:
            sizes = f"{script.num_bytes:,} bytes shipped, {script.unpacked_bytes:,} unpacked"
            text = f"packed with {' and '.join(script.codecs)}: {sizes}"
            yield info("script-packed", text, Quote(script.file))
        if script.undecoded:
            yield info("script-packed", f"was not unpacked: {script.undecoded}", Quote(script.file))
    script = record.script
    sizes = [size for log in record.runs for size in log.sizes_of("code", "raw_code")]
    if script is None or not sizes:
        return
    last, known = sizes[-1], {script.num_bytes, script.unpacked_bytes}
    all_scripts = sum(other.num_bytes for other in record.scripts)
    if last.num_bytes != all_scripts and not any(size.num_bytes in known for size in sizes):
        text = f"the logs charge {last.num_bytes:,} bytes of code; {script.file} has {script.num_bytes:,}"
        yield info("code-changed", f"{text}: changed after the run?", last.at, Quote(script.file))


def trouble(record: Record) -> Iterable[Finding]:
    """A missing codec replaced by zlib, which costs a megabyte (#274, #1463), and programs that failed."""
    for log in record.runs:
        for at in log.marks.get("fallback", [])[:1]:
            total = record.total(log)
            level = warning if total is None or total.is_over else info
            yield level("codec-fallback", "a codec was missing and another was used", at)
    crashed = [log for log in record.logs if "crash" in log.marks]
    if crashed:
        ends = [(log, log.marks["crash"][0]) for log in crashed]
        late = [log for log, at in ends if log.final_score and log.final_score.at.line < at.line]
        before = "a program failed" if len(late) < len(crashed) else "a program failed after its final score"
        yield warning(
            "traceback", f"{before} ({len(crashed)} of {len(record.logs)} logs)", *(at for _, at in ends)
        )
    script = record.script
    for code, pattern, text in _SOURCE_PATTERNS:
        if script and (match := pattern.search(script.source)):
            yield info(code, text, script.quote(match.start()))


RULES = (
    submission_complete,
    further_figures,
    present,
    parses,
    imports_present,
    code_size,
    trouble,
)
