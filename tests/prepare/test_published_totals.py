from dataclasses import replace
from types import SimpleNamespace

import pytest

from golf.data.manifest import Manifest, ShardFile
from golf.prepare.shards import compare_with_published


def manifest(num_tokens: int, num_bytes: int, case_ops: bool = False) -> Manifest:
    file = ShardFile("fineweb_val_000000.bin", "val", "", num_tokens, 50_000, 0, 49_999)
    fields = dict.fromkeys(("name", "source", "licence", "revision", "tokenizer", "tokenizer_sha256"), "")
    sizes = {"vocab_size": 8192, "train_text_bytes": 0, "repeated_documents": 0, "notes": ()}
    return replace(Manifest(**fields, **sizes, files=(file,), val_text_bytes=num_bytes), case_ops=case_ops)


def vocabulary(size: int = 8192, piece: str = "a") -> SimpleNamespace:
    return SimpleNamespace(size=size, piece=lambda token: piece)


@pytest.mark.parametrize(
    ("num_tokens", "case_ops", "told"),
    [
        (
            40_540_161 + 2047,
            False,
            "40,540,160 tokens in whole sequences of 2,048, as published for 8,192 pieces",
        ),
        (47_853_343, True, "47,851,520 tokens .*, as published for 8,192 pieces with CaseOps"),
        (40_540_160, False, "MISMATCH: .* 40,538,112 tokens .*; 40,540,160 are published"),
        (9_662_465, True, "MISMATCH: .* 9,662,464 tokens .*; 47,851,520 are published"),
    ],
)
def test_tokens_are_compared_in_whole_sequences(num_tokens: int, case_ops: bool, told: str):
    import re

    tokens, size = compare_with_published(manifest(num_tokens, 151_078_222, case_ops), vocabulary())
    assert re.search(told, tokens)
    assert size == "validation: 151,078,222 bytes, the published 151.08 million"


def test_other_tokenizers_have_no_published_total():
    told = "no total is published for"
    assert told in compare_with_published(manifest(10**7, 10**8), vocabulary(300))[0]
    assert (
        told in compare_with_published(manifest(43_770_000, 10**8, True), vocabulary(piece="\u2581\ue001"))[0]
    )


def test_other_bytes_are_said():
    size = compare_with_published(manifest(9_662_465, 29_900_000, True), vocabulary())[1]
    assert size.startswith("MISMATCH: validation: 29,900,000 bytes; the published total is 151.08 million")
