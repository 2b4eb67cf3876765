"""The challenge's validation split, and the totals that were published for it."""

from golf.data.manifest import Manifest
from golf.data.vocabulary import Vocabulary
from golf.prepare.tokenizer import FUSED_MARKS

DOCUMENTS_NAME = "docs_selected.jsonl"
"""The challenge's published documents."""
VALIDATION_DOCUMENTS = 50_000
"""The first so many of them are validation; openai/parameter-golf #2127 trained on 40,000 of them."""

_SEQUENCE_TOKENS = 2048
_PUBLISHED_TOKENS = {(1024, False): 62_021_632, (8192, False): 40_540_160, (8192, True): 47_851_520}
"""Scored tokens by pieces and CaseOps, cut to whole sequences of 2,048."""
_PUBLISHED_BYTES = 151_078_000
_BYTES_TOLERANCE = 8_000
"""Independent counts: 151,073,604 (#1289), 151,080,891 (#1804), 151,078,222 (#1916)."""


def compare_with_published(manifest: Manifest, vocabulary: Vocabulary) -> tuple[str, ...]:
    """A line on the tokens and one on the bytes of the challenge's validation split, agreeing or not."""
    scored = (manifest.num_tokens("val") - 1) // _SEQUENCE_TOKENS * _SEQUENCE_TOKENS
    found = f"validation: {scored:,} tokens in whole sequences of {_SEQUENCE_TOKENS:,}"
    published = _PUBLISHED_TOKENS.get((vocabulary.size, manifest.case_ops))
    fused = any(vocabulary.piece(token) == FUSED_MARKS[0] for token in range(vocabulary.size))
    kind = f"{vocabulary.size:,} pieces{' with CaseOps' if manifest.case_ops else ''}"
    if published is None or fused:
        tokens = f"{found}; no total is published for {kind}{', fused' if fused else ''}"
    elif scored == published:
        tokens = f"{found}, as published for {kind}"
    else:
        tokens = f"MISMATCH: {found}; {published:,} are published for {kind}: another tokenizer or other text"
    size = f"validation: {manifest.val_text_bytes:,} bytes"
    if abs(manifest.val_text_bytes - _PUBLISHED_BYTES) <= _BYTES_TOLERANCE:
        return tokens, f"{size}, the published 151.08 million"
    return tokens, f"MISMATCH: {size}; the published total is 151.08 million: other documents"
