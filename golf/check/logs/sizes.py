"""The byte counts a log states: totals, models and code, in the many words used for them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from golf.check.logs.lines import LogLine

Kind = Literal["total", "model", "raw_model", "code", "raw_code"]

_FIGURE = re.compile(
    r"(?<![\w.])(?P<number>\d{1,3}(?:,\d{3})+|\d+(?:_\d{3})+|\d+(?:\.\d+)?)\s{0,3}"
    r"(?P<unit>bytes|byte|B|KiB|KB|kB|MiB|MB)?(?![\w.])"
)
_LABEL_CHARACTERS = 80
UNCOMPRESSED_FROM = 48_000_000
"""Above three times the limit a total is of uncompressed weights, or of something else altogether."""
_UNITS = {"bytes": 1, "byte": 1, "B": 1, "KB": 10**3, "kB": 10**3, "MB": 10**6, "KiB": 2**10, "MiB": 2**20}
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
_CODEC = re.compile(r"int\d|quant|zstd|zlib|lzma|brotli|lrzip|pergroup|compress|gptq|ternary|\bans\b", re.I)
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
    """The line calls itself within the limit."""
    line: int
    text: str


def read_sizes(line: LogLine) -> list[LoggedSize]:
    """The byte counts of one line, in its order; limits, memory, parameters and tokens are not among them."""
    found: list[LoggedSize] = []
    fits = bool(_FITS.search(line.text)) and not _OVER.search(line.text)
    label_start = 0
    for match in _FIGURE.finditer(line.text):
        number = float(match["number"].replace(",", "").replace("_", ""))
        unit = match["unit"]
        if unit is None and number < 1_000:
            if line.text[label_start : match.start()].rstrip().endswith((":", "=")):
                label_start = match.end()
            continue
        label = line.text[label_start : match.start()][-_LABEL_CHARACTERS:].strip(_PUNCTUATION)
        label_start = match.end()
        if found and not label and unit:
            label = found[-1].label
        kind = _kind(label, line.text)
        if kind is None or _NOT_SIZE.search(label):
            continue
        num_bytes = round(number * _UNITS[unit or "bytes"])
        if unit is None and (not number.is_integer() or not _is_in_bytes(label, kind, line.text)):
            continue
        if not 1_000 <= num_bytes <= 10**11 or num_bytes in (16_000_000, 16_777_216):
            continue
        exact = unit in (None, "bytes", "byte", "B")
        if found and found[-1].kind == kind and found[-1].label == label and found[-1].exact and not exact:
            continue
        if found and found[-1].kind == kind and found[-1].label == label and exact and not found[-1].exact:
            found.pop()
        found.append(LoggedSize(kind, label, num_bytes, exact, fits, line.number, line.text))
    return found


def _kind(label: str, text: str) -> Kind | None:
    if _TOTAL.search(label):
        return "total"
    if _CODE.search(label):
        return "raw_code" if _RAW.search(label) else "code"
    if _MODEL.search(label):
        is_raw = bool(_RAW.search(label)) or not (_CODEC.search(label) or "artifact" in label.lower())
        return "raw_model" if is_raw else "model"
    if label.lower().startswith("raw_model"):
        return "raw_model"
    return None


def _is_in_bytes(label: str, kind: Kind, text: str) -> bool:
    lowered = label.lower()
    return "byte" in lowered or "size" in lowered or (kind == "total" and "byte" in text.lower())


def charged_total(sizes: Sequence[LoggedSize]) -> LoggedSize | None:
    """The total a log ends on: the last one printed, sums over uncompressed weights aside.

    Where only the compressed model and the code are printed, their sum, at the model's line.
    """
    model = _last(sizes, "model")
    code = _last(sizes, "code")
    raw = _last(sizes, "raw_model")
    totals = [size for size in sizes if size.kind == "total"]
    if raw is not None:
        totals = [size for size in totals if not _counts_raw(size, raw, code)]
    totals = [size for size in totals if size.num_bytes <= UNCOMPRESSED_FROM] or totals
    exact = [size for size in totals if size.exact]
    if exact or totals:
        return (exact or totals)[-1]
    if model is None or code is None:
        return None
    label = f"{model.label} + {code.label}"
    return LoggedSize("total", label, model.num_bytes + code.num_bytes, True, False, model.line, model.text)


def _last(sizes: Sequence[LoggedSize], kind: Kind) -> LoggedSize | None:
    return next((size for size in reversed(sizes) if size.kind == kind), None)


def _counts_raw(total: LoggedSize, raw: LoggedSize, code: LoggedSize | None) -> bool:
    return total.num_bytes >= raw.num_bytes and total.num_bytes - raw.num_bytes <= (
        code.num_bytes if code else 1_000_000
    )
