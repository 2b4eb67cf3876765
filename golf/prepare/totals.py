"""The challenge's validation split, and the totals that were published for it."""

from golf.data.manifest import Manifest
from golf.data.reference import CANONICAL_BYTES, COUNT_TOLERANCE, SEQUENCE_TOKENS, published_tokens
from golf.data.vocabulary import Vocabulary
from golf.prepare.tokenizer import FUSED_MARKS

DOCUMENTS_NAME = "docs_selected.jsonl"
"""The challenge's published documents."""
VALIDATION_DOCUMENTS = 50_000
"""The first so many of them are validation; openai/parameter-golf #2127 trained on 40,000 of them."""


def compare_with_published(manifest: Manifest, vocabulary: Vocabulary) -> tuple[str, ...]:
    """A line on the tokens and one on the bytes of the challenge's validation split, agreeing or not."""
    scored = (manifest.num_tokens("val") - 1) // SEQUENCE_TOKENS * SEQUENCE_TOKENS
    found = f"validation: {scored:,} tokens in whole sequences of {SEQUENCE_TOKENS:,}"
    published = published_tokens(vocabulary.size, manifest.case_ops)
    fused = any(vocabulary.piece(token) == FUSED_MARKS[0] for token in range(vocabulary.size))
    kind = f"{vocabulary.size:,} pieces{' with CaseOps' if manifest.case_ops else ''}"
    if published is None or fused:
        tokens = f"{found}; no total is published for {kind}{', fused' if fused else ''}"
    elif scored == published:
        tokens = f"{found}, as published for {kind}"
    else:
        tokens = f"MISMATCH: {found}; {published:,} are published for {kind}: another tokenizer or other text"
    size = f"validation: {manifest.val_text_bytes:,} bytes"
    if abs(manifest.val_text_bytes - CANONICAL_BYTES) <= COUNT_TOLERANCE:
        return tokens, f"{size}, the published 151.08 million"
    return tokens, f"MISMATCH: {size}; the published total is 151.08 million: other documents"
