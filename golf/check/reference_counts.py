"""The exports of the validation text in public use, and the bytes a score implies.

bits per byte = val_loss / ln 2 x tokens / bytes, so a printed val_loss, val_bpb and token count imply the
bytes that were counted. The first 50,000 documents of the challenge's validation text hold 151.08 million,
whatever the tokenizer; independent counts: 151,073,604 (openai/parameter-golf #1289), 151,080,891 (#1804),
151,078,222 (#1916).
"""

from dataclasses import dataclass

from golf.score.tally import bits_per_byte

CANONICAL_BYTES = 151_078_000
"""UTF-8 bytes of the 50,000 validation documents; exports round it by their sequence length."""
CANONICAL_TOLERANCE = 0.0012
"""Share of CANONICAL_BYTES inside which a full count lies: 150.9 to 151.26 million."""


@dataclass(frozen=True)
class Export:
    """A tokenised form of the validation text."""

    name: str
    num_tokens: tuple[int, ...]
    """Counts seen in logs; they differ by what a sequence length cuts off."""
    bytes_per_token: float


EXPORTS = (
    Export("sp1024", (62_021_632,), 2.43593),
    Export("sp4096", (45_508_608, 45_514_752, 45_516_800), 3.3198),
    Export("sp8192", (40_540_160,), 3.72662),
    Export("CaseOps sp8192", (47_851_520, 47_853_343), 3.15716),
    Export("byte260", (151_130_112,), 0.99967),
)
"""The exports that hold the whole validation text."""


@dataclass(frozen=True)
class Cause:
    """A known reason for a byte count that is off."""

    millions: float
    tolerance: float
    explanation: str
    is_partial: bool = False


CAUSES = (
    Cause(155.77, 0.05, "the launch-day export (63,779,840 sp1024 tokens): another text than today's (#837)"),
    Cause(
        29.9, 0.6, "10,000 documents in place of 50,000, the default of the CaseOps preparation (#2127)", True
    ),
    Cause(
        197.9,
        0.6,
        "49,999,872 tokens: a validation text cut at 50 M tokens, it seems, not at 50,000 documents",
    ),
    Cause(182.8, 0.6, "the family of #1184: byte-fallback and space tokens counted too high"),
    Cause(157.3, 0.2, "byte-fallback tokens counted as three bytes (U+FFFD), as in #1143 (+4.1%)"),
    Cause(164.6, 0.3, "CaseOps tokens scored without the side-file of original bytes (#2071)"),
    Cause(186.2, 0.6, "a vocabulary without a lone U+2581: spaces counted as three bytes (#755, #897)"),
    Cause(176.9, 1.0, "the byte of a leading space counted twice (+17%, #1719)"),
    Cause(192.6, 0.6, "the byte-PPM mixtures on sp4096: bytes of another count than the tokens' (#1872)"),
    Cause(174.0, 1.0, "the byte-PPM mixtures (#1785, #2080): bytes of another count than the tokens'"),
)


def implied_bytes(val_loss: float, val_bpb: float, num_tokens: float) -> float:
    """Bytes that turn `val_loss` nats per token over `num_tokens` into `val_bpb`; all must be above 0."""
    return bytes_per_token(val_loss, val_bpb) * num_tokens


def bytes_per_token(val_loss: float, val_bpb: float) -> float:
    """Mean bytes of text a token stands for, from a score in both units."""
    return bits_per_byte(val_loss, val_bpb)


def is_canonical(num_bytes: float) -> bool:
    """Whether a byte count is that of the whole validation text."""
    return abs(num_bytes / CANONICAL_BYTES - 1) <= CANONICAL_TOLERANCE


def find_cause(num_bytes: float) -> Cause | None:
    """The known reason nearest to a byte count, if one is near enough."""
    millions = num_bytes / 1e6
    near = [cause for cause in CAUSES if abs(cause.millions - millions) <= cause.tolerance]
    return min(near, key=lambda cause: abs(cause.millions - millions), default=None)


def find_export(ratio: float) -> Export | None:
    """The export whose bytes per token are within 0.15% of `ratio`."""
    near = [export for export in EXPORTS if abs(ratio / export.bytes_per_token - 1) < 0.0015]
    return near[0] if near else None


def describe_bytes(num_bytes: float) -> str:
    """A byte count in millions, against the canonical one, with the likely cause."""
    off = 100 * (num_bytes / CANONICAL_BYTES - 1)
    cause = find_cause(num_bytes)
    likely = cause.explanation if cause else _unknown(num_bytes)
    return f"{num_bytes / 1e6:.2f} million bytes ({off:+.2f}% of the canonical 151.08 million): {likely}"


def _unknown(num_bytes: float) -> str:
    if num_bytes < CANONICAL_BYTES:
        return "a part of the validation text, or bytes counted too low"
    return "another validation text, or bytes counted too high"
