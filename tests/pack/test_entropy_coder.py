import numpy as np
import pytest

from golf.pack.container import ArtifactError, PayloadReader
from golf.pack.entropy_coder import (
    ALPHABET,
    CODES_PER_TABLE,
    FINEST_CODED_CONTEXT,
    NUM_CONTEXTS,
    PRECISION_BITS,
    RAW_BITS,
    choose_lanes,
    count_symbols,
    decode_codes,
    decode_rans,
    decode_tables,
    encode_codes,
    encode_rans,
    encode_tables,
    join_codes,
    measure_codes,
    normalize_counts,
    share_tables,
    smallest_int,
    split_codes,
    take_low_bits,
)
from golf.pack.quantize import FIRST_CONTEXT

TOTAL = 1 << PRECISION_BITS


def codes_of_contexts(rng, contexts_R, columns, scale=1.0) -> tuple[np.ndarray, np.ndarray]:
    """Codes as wide as their row's context says, times `scale`, and their contexts."""
    contexts_RC = np.repeat(np.asarray(contexts_R)[:, None], columns, axis=1)
    sigma_RC = scale * np.exp2((contexts_RC + FIRST_CONTEXT) / 8)
    codes_RC = smallest_int(np.rint(rng.standard_normal(sigma_RC.shape) * sigma_RC))
    return codes_RC, contexts_RC.astype(np.uint8)


def test_contexts_share_a_table_until_it_has_enough_codes():
    counts = np.zeros(NUM_CONTEXTS, np.int64)
    assert share_tables(counts).max() == 0
    counts[10:14] = CODES_PER_TABLE
    assert share_tables(counts)[9:15].tolist() == [0, 0, 1, 2, 3, 3]
    counts[:] = CODES_PER_TABLE // 4
    tables = share_tables(counts)
    assert np.all(np.diff(tables.astype(int)) >= 0)
    assert np.bincount(tables, counts).min() >= CODES_PER_TABLE


@pytest.mark.parametrize("scale", [0.1, 1.0, 50.0])
def test_codes_of_every_context_come_back_however_far_out_they_are(scale):
    rng = np.random.default_rng(0)
    tensors = [codes_of_contexts(rng, rng.integers(0, NUM_CONTEXTS, 40), 31, scale) for _ in range(3)]
    codes, contexts = map(list, zip(*tensors, strict=True))
    data = encode_codes(codes, contexts)
    back = decode_codes(PayloadReader(memoryview(data)), contexts)
    assert all(np.array_equal(own, expected) for own, expected in zip(back, codes, strict=True))


def test_the_measured_bits_are_those_of_the_coded_stream():
    rng = np.random.default_rng(4)
    tensors = [codes_of_contexts(rng, rng.integers(10, 70, 100), 500) for _ in range(2)]
    codes, contexts = map(list, zip(*tensors, strict=True))
    bits, entropy, escaped = zip(*measure_codes(codes, contexts), strict=True)
    whole = 8 * len(encode_codes(codes, contexts))
    assert sum(entropy) <= sum(bits) <= whole < 1.05 * sum(entropy)
    assert sum(escaped) == sum(len(split_codes(*tensor)[1]) for tensor in tensors)


def test_splitting_codes_leaves_symbols_of_a_byte_and_low_bits():
    rng = np.random.default_rng(1)
    codes = smallest_int(rng.integers(-40_000, 40_000, (50, 60)))
    contexts = rng.integers(0, NUM_CONTEXTS, (50, 60)).astype(np.uint8)
    symbols, escapes, low = split_codes(codes, contexts)
    assert symbols.dtype == np.uint8
    assert 0 <= 8 * len(low) - RAW_BITS[contexts].sum() < 8 * RAW_BITS.max()
    reader = PayloadReader(memoryview(low))
    assert np.array_equal(join_codes(symbols, contexts, escapes, take_low_bits(reader, contexts)), codes)
    assert not len(reader.rest)


def test_finer_contexts_cost_one_bit_an_octave_more():
    rng = np.random.default_rng(2)
    sizes = []
    for index in (
        FINEST_CODED_CONTEXT - 8,
        FINEST_CODED_CONTEXT,
        FINEST_CODED_CONTEXT + 8,
        FINEST_CODED_CONTEXT + 24,
    ):
        sizes.append(
            8 * len(encode_codes(*([part] for part in codes_of_contexts(rng, [index] * 100, 500)))) / 50_000
        )
    assert np.allclose(np.diff(sizes), [1, 1, 2], atol=0.03)
    sigma = 2 ** ((FINEST_CODED_CONTEXT + FIRST_CONTEXT) / 8)
    assert abs(sizes[1] - np.log2(sigma * np.sqrt(2 * np.pi * np.e))) < 0.06


def test_only_contexts_beyond_the_finest_coded_one_have_raw_bits():
    assert RAW_BITS[: FINEST_CODED_CONTEXT + 1].max() == 0
    assert RAW_BITS[FINEST_CODED_CONTEXT + 1] == RAW_BITS[FINEST_CODED_CONTEXT + 8] == 1
    assert RAW_BITS[FINEST_CODED_CONTEXT + 9] == 2


def test_symbols_are_counted_by_table():
    symbols = np.array([3, 3, 255, 3], np.uint8)
    counts = count_symbols(symbols, np.array([0, 0, 0, 1], np.uint8), 2)
    assert counts[0, 3] == 2 and counts[0, 255] == 1 and counts[1, 3] == 1 and counts.sum() == 4


def test_a_context_without_a_table_and_a_wrong_list_of_escapes_are_refused():
    rng = np.random.default_rng(3)
    codes, contexts = codes_of_contexts(rng, [30] * 20, 20, scale=60.0)
    data = bytearray(encode_codes([codes], [contexts]))
    with pytest.raises(ArtifactError, match="coding table 9 of 1"):
        decode_codes(PayloadReader(memoryview(bytes([9]) * NUM_CONTEXTS + data[NUM_CONTEXTS:])), [contexts])
    _, escapes, _ = split_codes(codes, contexts)
    assert len(escapes)
    listed = data.index(np.uint32(len(escapes)).tobytes() + escapes.tobytes())
    fewer = data[:listed] + np.uint32(len(escapes) - 1).tobytes() + escapes[1:].tobytes()
    with pytest.raises(ArtifactError, match="escaped"):
        decode_codes(PayloadReader(memoryview(fewer + data[listed + 4 + escapes.nbytes :])), [contexts])


def gaussian_case(seed: int, num_symbols: int, num_tables: int = 5):
    rng = np.random.default_rng(seed)
    tables = rng.integers(0, num_tables, num_symbols).astype(np.uint8)
    sigma = 0.3 * 2.0 ** np.arange(num_tables)
    codes = np.rint(rng.standard_normal(num_symbols) * sigma[tables]).astype(np.int8)
    symbols = codes.view(np.uint8)
    counts = np.zeros((num_tables, ALPHABET), np.int64)
    np.add.at(counts, (tables, symbols), 1)
    return symbols, tables, counts


def model_bits(symbols, tables, frequencies) -> float:
    return float(np.sum(PRECISION_BITS - np.log2(frequencies[tables, symbols])))


@pytest.mark.parametrize("lanes", [1, 2, 7, 64, 1024])
@pytest.mark.parametrize("num_symbols", [0, 1, 2, 63, 64, 65, 1000, 5011])
def test_symbols_come_back_for_every_count_and_number_of_lanes(num_symbols, lanes):
    symbols, tables, counts = gaussian_case(num_symbols, num_symbols)
    frequencies = normalize_counts(counts)
    data = encode_rans(symbols, tables, frequencies, lanes)
    assert np.array_equal(decode_rans(data, tables, frequencies, lanes), symbols)


def test_the_length_is_the_models_information_and_two_bytes_a_lane():
    symbols, tables, counts = gaussian_case(1, 50_000)
    frequencies = normalize_counts(counts)
    for lanes in (4, 16, 256):
        bits = 8 * len(encode_rans(symbols, tables, frequencies, lanes))
        information = model_bits(symbols, tables, frequencies)
        assert information <= bits <= 1.0005 * information + 32 * lanes


def test_coded_length_with_tables_and_lanes_is_within_three_thousandths_of_the_entropy():
    symbols, tables, counts = gaussian_case(2, 2_000_000, num_tables=6)
    frequencies = normalize_counts(counts)
    coded = encode_rans(symbols, tables, frequencies, choose_lanes(len(symbols))) + encode_tables(frequencies)
    used = counts > 0
    entropy = np.sum(counts[used] * np.log2((counts.sum(1, keepdims=True) / np.maximum(counts, 1))[used]))
    assert 8 * len(coded) < 1.003 * entropy


def test_constriction_needs_as_many_bits_for_the_same_tables():
    constriction = pytest.importorskip("constriction")
    symbols, tables, counts = gaussian_case(3, 20_000, num_tables=3)
    frequencies = normalize_counts(counts)
    coder = constriction.stream.stack.AnsCoder()
    for table in range(3):
        model = constriction.stream.model.Categorical(frequencies[table] / TOTAL, perfect=False)
        coder.encode_reverse(symbols[tables == table].astype(np.int32), model)
    theirs = 32 * len(coder.get_compressed())
    ours = 8 * len(encode_rans(symbols, tables, frequencies, 4))
    assert abs(ours - theirs) < 0.002 * theirs + 64


def test_frequencies_fill_the_table_and_leave_no_used_symbol_out():
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts = rng.integers(0, 2, (1, ALPHABET)) * rng.integers(1, 10 ** rng.integers(1, 9), (1, ALPHABET))
        frequencies = normalize_counts(counts)
        assert frequencies.sum() == TOTAL
        if counts.any():
            assert np.array_equal(frequencies > 0, counts > 0)


def test_frequencies_cost_no_more_than_any_single_move_of_a_slot():
    counts = np.zeros((1, ALPHABET), np.int64)
    counts[0, :6] = [90_000, 5000, 311, 40, 3, 1]
    best = normalize_counts(counts)[0]

    def cost(frequencies):
        return -np.sum(counts[0, :6] * np.log2(frequencies[:6]))

    for source in range(6):
        for target in range(6):
            moved = best.copy()
            moved[source] -= 1
            moved[target] += 1
            if moved[:6].min() > 0:
                assert cost(best) <= cost(moved) + 1e-4 * abs(cost(moved))


def test_tables_come_back_and_a_cut_or_false_one_is_refused():
    _, _, counts = gaussian_case(4, 5000)
    frequencies = normalize_counts(counts)
    data = encode_tables(frequencies)
    reader = PayloadReader(memoryview(data + b"rest"))
    assert np.array_equal(decode_tables(reader), frequencies) and bytes(reader.rest) == b"rest"
    for length in range(len(data)):
        with pytest.raises(ArtifactError):
            decode_tables(PayloadReader(memoryview(data[:length])))
    with pytest.raises(ArtifactError, match="slots"):
        decode_tables(PayloadReader(memoryview(bytes([1, 128, 129, 5, 6]))))


def test_a_single_symbol_costs_nothing_but_the_lanes():
    counts = np.zeros((1, ALPHABET), np.int64)
    counts[0, 7] = 10_000
    symbols, tables = np.full(10_000, 7, np.uint8), np.zeros(10_000, np.uint8)
    data = encode_rans(symbols, tables, normalize_counts(counts), 4)
    assert len(data) == 16
    assert np.array_equal(decode_rans(data, tables, normalize_counts(counts), 4), symbols)


def test_a_stream_of_another_length_or_with_a_changed_word_is_refused_or_decodes_to_other_symbols():
    symbols, tables, counts = gaussian_case(5, 400)
    frequencies = normalize_counts(counts)
    data = encode_rans(symbols, tables, frequencies, 4)
    for wrong in (data[:-2], data[:-1], data + b"\x00\x00", b"", data[:15]):
        with pytest.raises(ArtifactError):
            decode_rans(wrong, tables, frequencies, 4)
    rng = np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(data)
        changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            assert not np.array_equal(decode_rans(bytes(changed), tables, frequencies, 4), symbols)
        except ArtifactError:
            pass


def test_codes_take_the_smallest_type_that_holds_them():
    for largest, kind in ((127, np.int8), (128, np.int16), (32767, np.int16), (32768, np.int32)):
        assert smallest_int(np.array([0, -largest])).dtype == kind
    assert smallest_int(np.zeros((0, 3))).dtype == np.int8
