import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.audit.range_coder import (
    TOTAL_BITS,
    RangeDecoder,
    RangeEncoder,
    code_integers,
    cumulative_counts,
)
from golf.ttt.documents import DocumentSpan, order_bytes


def encode(counts_NV: np.ndarray, symbols: list[int]) -> bytes:
    encoder = RangeEncoder()
    for counts_V, symbol in zip(counts_NV, symbols, strict=True):
        encoder.code(counts_V, symbol)
    return encoder.finish()


def information_bits(counts_NV: np.ndarray, symbols: list[int]) -> float:
    shares_NV = np.diff(counts_NV.astype(np.float64)) / 2**TOTAL_BITS
    return float(-np.log2(shares_NV[np.arange(len(symbols)), symbols]).sum())


@settings(max_examples=60, deadline=None)
@given(
    num_symbols=st.integers(2, 300),
    length=st.integers(0, 200),
    spread=st.sampled_from([0.0, 1.0, 20.0, 400.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_symbols_are_restored_from_their_information(
    num_symbols: int, length: int, spread: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    counts_NV = cumulative_counts(spread * draw.normal(size=(length, num_symbols)).astype(np.float32))
    # Half of them as likely as they are, half anything, with shares down to 2^-32.
    likely = (np.diff(counts_NV.astype(np.float64)).argmax(1)).tolist()
    symbols = [int(draw.integers(num_symbols)) if draw.random() < 0.5 else place for place in likely]
    data = encode(counts_NV, symbols)
    decoder = RangeDecoder(data)
    assert [decoder.code(counts_V) for counts_V in counts_NV] == symbols
    assert 8 * len(data) <= information_bits(counts_NV, symbols) * (1 + 1e-6) + 9


def test_runs_of_full_bytes_carry() -> None:
    """An interval that straddles a byte's end for long, until the last symbol decides."""
    middle = np.array([0, 2**31 - 1, 2**31 + 1, 2**32], dtype=np.uint64)
    for last in (0, 2):
        symbols = [1] * 200 + [last]
        data = encode(np.tile(middle, (201, 1)), symbols)
        decoder = RangeDecoder(data)
        assert [decoder.code(middle) for _ in symbols] == symbols


def test_counts_are_the_softmax_with_room_for_every_symbol() -> None:
    logits_BV = np.array([[0.0, 1.0, 2.0], [-800.0, 0.0, 900.0], [np.nan, 0.0, 1.0]], dtype=np.float32)
    counts_BV = np.diff(cumulative_counts(logits_BV).astype(np.int64))
    assert (counts_BV.sum(1) == 2**TOTAL_BITS).all() and (counts_BV >= 1).all()
    shares_V = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    assert counts_BV[0] / 2**TOTAL_BITS == pytest.approx(shares_V, abs=1e-8)
    assert counts_BV[1].tolist() == [1, 1, 2**TOTAL_BITS - 2]
    assert counts_BV[2] / 2**TOTAL_BITS == pytest.approx(np.full(3, 1 / 3), abs=1e-8)


def test_as_short_as_an_independent_range_coder() -> None:
    draw = np.random.default_rng(0)
    logits_NV = 2.0 * draw.normal(size=(3000, 50))
    counts_NV = cumulative_counts(logits_NV)
    shares_NV = np.diff(counts_NV.astype(np.float64)) / 2**TOTAL_BITS
    symbols = [int(draw.choice(50, p=shares_V)) for shares_V in shares_NV]
    other = constriction.stream.queue.RangeEncoder()
    family = constriction.stream.model.Categorical(perfect=False)
    other.encode(np.array(symbols, dtype=np.int32), family, shares_NV.astype(np.float32))
    assert len(encode(counts_NV, symbols)) <= 4 * len(other.get_compressed()) * 1.0001 + 8


def test_a_flipped_bit_restores_other_symbols() -> None:
    draw = np.random.default_rng(0)
    counts_NV = cumulative_counts(draw.normal(size=(400, 20)))
    symbols = draw.integers(0, 20, 400).tolist()
    data = encode(counts_NV, symbols)
    for bit in range(0, 8 * (len(data) - 1), 37):
        wrong = bytearray(data)
        wrong[bit // 8] ^= 1 << bit % 8
        decoder = RangeDecoder(bytes(wrong))
        assert [decoder.code(counts_V) for counts_V in counts_NV] != symbols


@given(values=st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_integers_are_restored(values: list[int]) -> None:
    encoder = RangeEncoder()
    code_integers(encoder, np.array(values, dtype=np.int64))
    found = np.zeros(len(values), dtype=np.int64)
    code_integers(RangeDecoder(encoder.finish()), found)
    assert found.tolist() == values


@given(lengths=st.lists(st.integers(1, 2**20), min_size=1, max_size=60))
def test_a_score_says_how_many_bytes_the_lengths_of_its_documents_take(lengths: list[int]) -> None:
    encoder = RangeEncoder()
    code_integers(encoder, np.array(lengths, dtype=np.int64))
    spans = [DocumentSpan(0, length) for length in lengths]
    assert abs(len(encoder.finish()) - order_bytes(spans)) <= 1
