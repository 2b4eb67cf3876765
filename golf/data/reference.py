"""The challenge in figures: its byte limit, the bytes of its validation text, its public exports, and known
wrong byte counts.

The first 50,000 documents of the challenge's text hold 151.08 million bytes, whatever the tokenizer.
Independent counts: 151,073,604 (openai/parameter-golf #1289), 151,080,891 (#1804), 151,078,222 (#1916).
"""

from typing import Literal, NamedTuple

ValidationText = Literal["challenge", "launch-day"]

LIMIT_BYTES = 16_000_000
"""Decimal. Limit on code bytes plus artifact bytes of an entry, for every seed."""

CANONICAL_BYTES = 151_078_000
"""UTF-8 bytes of the 50,000 validation documents."""
COUNT_TOLERANCE = 8_000
"""Bytes by which independent counts of the whole text differ from CANONICAL_BYTES."""
SEQUENCE_TOKENS = 2048
"""Published token counts are cut to whole sequences of this length."""

VALIDATION_BYTES: dict[ValidationText, tuple[int, int]] = {
    "challenge": (150_900_000, 151_260_000),
    "launch-day": (155_700_000, 155_840_000),
}
"""Lowest and highest byte count of the whole validation texts that public scores are on. Exports differ by
what their sequence length cuts off the end."""


class Export(NamedTuple):
    """A tokenized form of the whole validation text that public scores use.

    `num_tokens` are scored, in whole sequences of SEQUENCE_TOKENS; None where public counts differ.
    """

    name: str
    vocab_size: int
    case_ops: bool
    num_tokens: int | None
    bytes_per_token: float


EXPORTS = (
    Export("sp1024", 1024, False, 62_021_632, 2.43593),
    Export("sp4096", 4096, False, None, 3.3198),
    Export("sp8192", 8192, False, 40_540_160, 3.72662),
    Export("CaseOps sp8192", 8192, True, 47_851_520, 3.15716),
    Export("byte260", 260, False, 151_130_112, 0.99967),
)


class Cause(NamedTuple):
    """A known reason for a wrong byte count, which it explains within `tolerance`; both in millions."""

    millions: float
    tolerance: float
    explanation: str
    is_partial: bool = False


CAUSES = (
    Cause(155.77, 0.05, "the launch-day export (63,779,840 sp1024 tokens): another text than today's (#837)"),
    Cause(29.9, 0.6, "10,000 documents, not 50,000: the default of the CaseOps preparation (#2127)", True),
    Cause(197.9, 0.6, "49,999,872 tokens: probably the text cut at 50 M tokens, not at 50,000 documents"),
    Cause(182.8, 0.6, "the family of #1184: byte-fallback and space tokens counted too high"),
    Cause(157.3, 0.2, "byte-fallback tokens counted as three bytes (U+FFFD), as in #1143 (+4.1%)"),
    Cause(164.6, 0.3, "CaseOps tokens scored without the side-file of original bytes (#2071)"),
    Cause(186.2, 0.6, "a vocabulary without a lone U+2581: spaces counted as three bytes (#755, #897)"),
    Cause(176.9, 1.0, "the byte of a leading space counted twice (+17%, #1719)"),
    Cause(192.6, 0.6, "the byte-PPM mixtures on sp4096: bytes counted otherwise than the tokens' (#1872)"),
    Cause(174.0, 1.0, "the byte-PPM mixtures (#1785, #2080): bytes counted otherwise than the tokens'"),
)


def published_tokens(vocab_size: int, case_ops: bool) -> int | None:
    """The token count of the export with this vocabulary, or None if no single count is published."""
    exports = (export for export in EXPORTS if (export.vocab_size, export.case_ops) == (vocab_size, case_ops))
    return next((export.num_tokens for export in exports), None)


def text_of_size(num_bytes: float) -> ValidationText | None:
    """The validation text of public scores that has this many bytes, or None for any other text."""
    return next((text for text, (low, high) in VALIDATION_BYTES.items() if low <= num_bytes <= high), None)


def is_canonical(num_bytes: float) -> bool:
    """Whether a byte count is that of the whole validation text."""
    return text_of_size(num_bytes) == "challenge"


def find_cause(num_bytes: float) -> Cause | None:
    """The known reason nearest to a byte count, or None if none is within its tolerance."""
    millions = num_bytes / 1e6
    near = [cause for cause in CAUSES if abs(cause.millions - millions) <= cause.tolerance]
    return min(near, key=lambda cause: abs(cause.millions - millions), default=None)


def find_export(bytes_per_token: float) -> Export | None:
    """The export whose bytes per token are within 0.15% of the argument."""
    return next((e for e in EXPORTS if abs(bytes_per_token / e.bytes_per_token - 1) < 0.0015), None)


def describe_bytes(num_bytes: float) -> str:
    """A byte count in millions, compared with the canonical one, with its likely cause."""
    cause, off = find_cause(num_bytes), 100 * (num_bytes / CANONICAL_BYTES - 1)
    likely = "another validation text, or bytes counted too high"
    if cause or off < 0:
        likely = cause.explanation if cause else "a part of the validation text, or bytes counted too low"
    return f"{num_bytes / 1e6:.2f} million bytes ({off:+.2f}% of the canonical 151.08 million): {likely}"
