"""Rules on code: it parses, its imports are there, no codec falls back in silence."""

import re
import sys
from collections.abc import Iterable
from pathlib import PurePosixPath

from golf.check.claims import entry_runs
from golf.check.findings import Evidence, Finding, defect, doubt, note
from golf.check.folder import Folder
from golf.check.scripts import Script

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
"""Known packages: absent from the requirements they are a doubt, where an unknown module is a defect."""

MAX_REQUIREMENTS = 500
"""Lines of a requirements file that are read."""

_PACKAGE_NAMES = {
    "pyyaml": "yaml",
    "scikit_learn": "sklearn",
    "flash_linear_attention": "fla",
    "flash_attn": "flash_attn",
}
_FALLBACK = re.compile(r"except\b[^:\n]{0,120}:[ \t]{0,9}(?:#[^\n]{0,120})?\n?[^\n]{0,120}\bzlib\b")
_MEBIBYTES = re.compile(r"\b16 ?\* ?1024 ?\* ?1024\b|\b16 ?\* ?2 ?\*\* ?20\b|\b16_?777_?216\b|\b16 ?<< ?20\b")
_NETWORK = re.compile(r"\bhf_hub_download\(|\bsnapshot_download\(|\burlretrieve\(|\brequests\.get\(|\bwget\b")


def parses(folder: Folder) -> Iterable[Finding]:
    """Each script has to parse on the Python it is run with: 3.10 to 3.13 are looked at."""
    pythons = {log.python for log in entry_runs(folder) if log.python}
    for script in folder.scripts:
        for verdict, what in ((script.shipped_verdict, ""), (script.verdict, "unpacked, ")):
            at = Evidence(script.file, verdict.line)
            if verdict.unsure:
                text = f"{what}has {verdict.message}; Python 3.12 or later has to judge"
                yield doubt("script-syntax-unsure", text, at)
            elif len(verdict.rejected_by) == 4:
                is_main = script is folder.script
                text = f"{what}does not parse: {verdict.message}"
                yield (defect if is_main else doubt)("script-syntax", text, at)
            elif verdict.rejected_by:
                rejected = " and ".join(verdict.rejected_by)
                text = f"{what}holds {verdict.message}: Python {rejected} cannot run it"
                known = pythons and not pythons & set(verdict.rejected_by)
                level = note if known else doubt
                ran = f"; the logs ran {', '.join(sorted(pythons))}" if known else ""
                yield level("script-python", text + ran, at)
            else:
                continue
            break


def imports_there(folder: Folder) -> Iterable[Finding]:
    """What a script imports has to be in the folder, its requirements, the image or the standard library."""
    local = {
        PurePosixPath(entry.name).stem
        for entry in folder.files
        if entry.suffix in (".py", ".so", ".c", ".cpp")
    }
    local |= {part for entry in folder.files for part in PurePosixPath(entry.name).parts[:-1]}
    required = required_modules(folder)
    for script in folder.scripts:
        for imported in script.imports:
            module = imported.module
            if module in sys.stdlib_module_names or module in IMAGE_MODULES | local | required:
                continue
            at = Evidence(script.file, imported.line, f"import {module}")
            if imported.guarded:
                continue
            named = folder.readme is not None and module in folder.readme[1]
            if script is not folder.script or module in INSTALLABLE_MODULES or named:
                text = f"imports {module}, which neither the folder nor its requirements hold"
                yield doubt("script-import", text, at)
            else:
                text = f"imports {module}: not in the folder, the requirements or the standard library"
                yield defect("script-import", text, at)


def required_modules(folder: Folder) -> set[str]:
    """Modules that the requirements files name, under their import names."""
    names: set[str] = set()
    for text in folder.requirements.values():
        for line in text.split("\n")[:MAX_REQUIREMENTS]:
            match = re.match(r"\s*#?[^A-Za-z]*(?:pip install\s+(?:--?\S+\s+)*)?([A-Za-z][\w.-]*)", line)
            if match:
                name = match.group(1).lower().replace("-", "_").replace(".", "_")
                names.add(_PACKAGE_NAMES.get(name, name))
            names |= {
                word for word in INSTALLABLE_MODULES if word.replace("_", "-") in line.lower() or word in line
            }
    if names & {"flash_attn", "flash_attn_3"}:
        names |= {"flash_attn", "flash_attn_3", "flash_attn_interface"}
    return names


def packing(folder: Folder) -> Iterable[Finding]:
    """Says how a packed script was read, or that it was not."""
    for script in folder.scripts:
        if script.codecs:
            how = " and ".join(script.codecs)
            text = (
                f"packed with {how}: {script.num_bytes:,} bytes shipped, {script.unpacked_bytes:,} unpacked"
            )
            yield note("script-packed", text, Evidence(script.file))
        if script.undecoded:
            yield doubt("script-packed", f"was not unpacked: {script.undecoded}", Evidence(script.file))


def charged_code(folder: Folder) -> Iterable[Finding]:
    """The code size the logs charge has to be that of the shipped script, packed or not."""
    script = folder.script
    if script is None:
        return
    sizes = [
        (log, size) for log in entry_runs(folder) for size in log.sizes if size.kind in ("code", "raw_code")
    ]
    known = {script.num_bytes, script.unpacked_bytes}
    if sizes and not any(size.num_bytes in known for _, size in sizes):
        log, size = sizes[-1]
        together = sum(other.num_bytes for other in folder.scripts)
        if size.num_bytes == together:
            return
        text = f"the logs charge {size.num_bytes:,} bytes of code; {script.file} has {script.num_bytes:,}"
        at = Evidence(log.file, size.line, size.text.strip()[:160])
        yield doubt("code-changed", text + ": changed after the run?", at, Evidence(script.file))


def fallbacks(folder: Folder) -> Iterable[Finding]:
    """A missing codec replaced by zlib costs a megabyte (#274, #1463): in a log, or possible in a script."""
    for log in entry_runs(folder):
        for line in log.marks.get("fallback", [])[:1]:
            text = "a codec was missing and another took its place"
            yield doubt("codec-fallback", text, Evidence(log.file, line.number, line.text[:160]))
    script = folder.script
    if script is None:
        return
    for pattern, word, code, text in (
        (_FALLBACK, "zlib", "codec-fallback", "falls back to zlib where a codec is missing"),
        (_MEBIBYTES, "16", "mebibytes", "compares with 16 MiB (16,777,216); the limit is 16,000,000"),
        (_NETWORK, "", "network", "can download; nothing may be fetched while evaluating"),
    ):
        match = pattern.search(script.source) if word in script.source else None
        if match:
            yield note(code, text, _at(script, match.start()))


def tracebacks(folder: Folder) -> Iterable[Finding]:
    """A traceback in a submitted log."""
    for log in entry_runs(folder):
        lines = log.marks.get("traceback", [])
        if lines:
            final = log.final_score
            after = final is not None and lines[0].number > final.line
            text = "a traceback after the final score" if after else "a traceback before any final score"
            at = Evidence(log.file, lines[0].number, lines[0].text)
            yield (note if after else doubt)("traceback", text, at)


def _at(script: Script, position: int) -> Evidence:
    line = script.source.count("\n", 0, position) + 1
    text = script.source.split("\n")[line - 1].strip()[:160]
    return Evidence(script.file if not script.codecs else f"{script.file} (unpacked)", line, text)


RULES = (parses, imports_there, packing, charged_code, fallbacks, tracebacks)
