"""The byte counts a log states: totals, models and code, in the many words used for them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from golf.check.findings import Line

Kind = Literal["total", "model", "raw_model", "code", "raw_code"]

UNCOMPRESSED_FROM = 48_000_000
"""Above three times the limit a total is of uncompressed weights, or of something else altogether."""

_FIGURE = re.compile(
    r"(?<![\w.])(?P<number>\d{1,3}(?:,\d{3})+|\d+(?:_\d{3})+|\d+(?:\.\d+)?)\s{0,3}"
    r"(?P<unit>bytes|byte|B|KiB|KB|kB|MiB|MB)?(?![\w.])"
)
_LABEL_CHARACTERS = 80
_UNITS = {"bytes": 1, "byte": 1, "B": 1, "KB": 10**3, "kB": 10**3, "MB": 10**6, "KiB": 2**10, "MiB": 2**20}
_WORDS = re.compile(r"byte|total|submission|artifact|code")
"""A line without any of these, in lower case, states no size."""
_NOT_SIZE = re.compile(
    r"param|token|step|time|second|window|chunk|doc|memory|peak|flop|shard|batch|layer|budget|limit|cap\b"
    r"|target|headroom|margin|slack|under|over|left|payload|raw_torch|ratio|train|dim|head|\bN_bytes|num_bytes|scored"
    r"|eval|grad|world|rank|wait|download|host|alloc|reserved|sent|dataset|buffer|cache|hessian|val_bytes|text",
    re.I,
)
_TOTAL = re.compile(
    r"total|submission[_ ]*(?:size|bytes)|bytes_total|artifact\s*\+\s*code|code\s*\+\s*(?:model|artifact)"
    r"|(?:model|weights|artifact)\s*\+\s*(?:code|script)|combined|^\s*submission\b",
    re.I,
)
_CODE = re.compile(r"code|script", re.I)
_MODEL = re.compile(r"serialized model|artifact|compressed|model_bytes|model size|blob|weights", re.I)
_RAW = re.compile(r"\buncompressed|raw\b|^raw_|\braw_|fp32", re.I)
_COMPRESSED = re.compile(
    r"int\d|quant|zstd|zlib|lzma|brotli|lrzip|pergroup|compress|gptq|ternary|\bans\b|artifact", re.I
)
_FITS = re.compile(r"\bfits?\b|\bunder\b|\bok\b|within|valid\b|\u2713|\u2705|\bPASS", re.I)
_OVER = re.compile(r"\bover\b|exceed|too (?:big|large)|\bnot\b|\bFAIL|\u2717|\u274c|\binvalid\b", re.I)
_PUNCTUATION = " \t-*>|[]():,;.=/"


@dataclass(frozen=True)
class LoggedSize:
    """A byte count a log states."""

    kind: Kind
    """total is code and compressed weights; raw_model is uncompressed weights, raw_code unpacked source."""
    label: str
    num_bytes: int
    """As printed, or rounded from a decimal figure."""
    exact: bool
    """Printed in bytes, not in kB or MB."""
    says_fits: bool
    """The line says that it is within the limit."""
    line: Line


def read_sizes(line: Line) -> list[LoggedSize]:
    """The byte counts of one line, in its order; limits, memory, parameters and tokens are not among them."""
    found: list[LoggedSize] = []
    text = line.text
    lowered = text.lower()
    if not _WORDS.search(lowered):
        return found
    fits = bool(_FITS.search(text)) and not _OVER.search(text)
    label_start = 0
    for match in _FIGURE.finditer(text):
        number = float(match["number"].replace(",", "").replace("_", ""))
        unit = match["unit"]
        before = text[label_start : match.start()]
        if unit is None and number < 1_000:
            if before.rstrip().endswith((":", "=")):
                label_start = match.end()
            continue
        label = before[-_LABEL_CHARACTERS:].strip(_PUNCTUATION)
        label_start = match.end()
        if found and not label and unit:
            label = found[-1].label
        kind = _kind(label)
        if kind is None or _NOT_SIZE.search(label):
            continue
        words = label.lower() if kind != "total" else lowered
        if unit is None and not (number.is_integer() and ("byte" in words or "size" in label.lower())):
            continue
        num_bytes = round(min(number, 1e12) * _UNITS[unit or "bytes"])
        if not 1_000 <= num_bytes <= 10**11 or num_bytes in (16_000_000, 16_777_216):
            continue
        exact = unit in (None, "bytes", "byte", "B")
        if found and (found[-1].kind, found[-1].label) == (kind, label) and found[-1].exact != exact:
            # One size in two units: the exact one counts.
            if not exact:
                continue
            found.pop()
        found.append(LoggedSize(kind, label, num_bytes, exact, fits, line))
    return found


def _kind(label: str) -> Kind | None:
    if _TOTAL.search(label):
        return "total"
    if _CODE.search(label):
        return "raw_code" if _RAW.search(label) else "code"
    if _MODEL.search(label):
        return "raw_model" if _RAW.search(label) or not _COMPRESSED.search(label) else "model"
    return "raw_model" if label.lower().startswith("raw_model") else None


def charged_total(sizes: Sequence[LoggedSize]) -> LoggedSize | None:
    """The total a log ends on: the last one printed that is no sum over uncompressed weights.

    Where only the compressed model and the code are printed, their sum, at the model's line.
    """
    last = {size.kind: size for size in sizes}
    model, code, raw = last.get("model"), last.get("code"), last.get("raw_model")
    totals = [size for size in sizes if size.kind == "total"]
    if raw:
        most_code = code.num_bytes if code else 1_000_000
        totals = [t for t in totals if not 0 <= t.num_bytes - raw.num_bytes <= most_code]
    totals = [size for size in totals if size.num_bytes <= UNCOMPRESSED_FROM] or totals
    totals = [size for size in totals if size.exact] or totals
    if totals:
        return totals[-1]
    if model is None or code is None:
        return None
    label = f"{model.label} + {code.label}"
    return LoggedSize("total", label, model.num_bytes + code.num_bytes, True, False, model.line)
