import numpy as np
import pytest

from golf.pack.coding import (
    CODES_PER_TABLE,
    FINEST_CODED_CLASS,
    PayloadReader,
    count_symbols,
    decode_codes,
    encode_codes,
    join_codes,
    raw_bits,
    share_tables,
    split_codes,
)
from golf.pack.container import ArtifactError
from golf.pack.grid import FIRST_CLASS, NUM_CLASSES, QuantizedTensor, TensorGrid, smallest_int


def tensor_of_classes(rng, classes_R, columns, scale=1.0) -> QuantizedTensor:
    """Codes as widely spread as their class says, times `scale`."""
    rows = len(classes_R)
    grid = TensorGrid(
        np.zeros(rows, np.int64),
        np.asarray(classes_R) + FIRST_CLASS,
        np.zeros(columns, np.int64),
        np.zeros(columns, np.int64),
        np.zeros(rows, np.float32),
    )
    sigma_R1 = scale * np.exp2((np.asarray(classes_R)[:, None] + FIRST_CLASS) / 8)
    return QuantizedTensor(smallest_int(np.rint(rng.standard_normal((rows, columns)) * sigma_R1)), grid)


def test_classes_share_a_table_until_it_has_enough_codes():
    counts = np.zeros(NUM_CLASSES, np.int64)
    assert share_tables(counts).max() == 0
    counts[10:14] = CODES_PER_TABLE
    assert share_tables(counts)[9:15].tolist() == [0, 0, 1, 2, 3, 3]
    counts[:] = CODES_PER_TABLE // 4
    tables = share_tables(counts)
    assert np.all(np.diff(tables.astype(int)) >= 0)
    assert np.bincount(tables, counts).min() >= CODES_PER_TABLE


@pytest.mark.parametrize("scale", [0.1, 1.0, 50.0])
def test_codes_of_every_class_come_back_however_far_out_they_are(scale):
    rng = np.random.default_rng(0)
    tensors = [tensor_of_classes(rng, rng.integers(0, NUM_CLASSES, 40), 31, scale) for _ in range(3)]
    data = encode_codes(tensors)
    back = decode_codes(PayloadReader(memoryview(data)), [tensor.grid for tensor in tensors])
    assert all(np.array_equal(codes, tensor.codes_RC) for codes, tensor in zip(back, tensors, strict=True))


def test_splitting_codes_leaves_symbols_of_a_byte_and_low_bits():
    rng = np.random.default_rng(1)
    codes = smallest_int(rng.integers(-40_000, 40_000, (50, 60)))
    classes = rng.integers(0, NUM_CLASSES, (50, 60)).astype(np.uint8)
    symbols, escapes, low = split_codes(codes, classes)
    assert symbols.dtype == np.uint8
    assert 0 <= 8 * len(low) - raw_bits()[classes].sum() < 8 * raw_bits().max()
    assert np.array_equal(join_codes(symbols.reshape(50, 60), classes, escapes, low), codes)


def test_finer_classes_cost_one_bit_an_octave_more():
    rng = np.random.default_rng(2)
    sizes = []
    for index in (
        FINEST_CODED_CLASS - 8,
        FINEST_CODED_CLASS,
        FINEST_CODED_CLASS + 8,
        FINEST_CODED_CLASS + 24,
    ):
        sizes.append(8 * len(encode_codes([tensor_of_classes(rng, [index] * 100, 500)])) / 50_000)
    assert np.allclose(np.diff(sizes), [1, 1, 2], atol=0.03)
    sigma = 2 ** ((FINEST_CODED_CLASS + FIRST_CLASS) / 8)
    assert abs(sizes[1] - np.log2(sigma * np.sqrt(2 * np.pi * np.e))) < 0.06


def test_only_classes_beyond_the_finest_coded_one_have_raw_bits():
    bits = raw_bits()
    assert bits[: FINEST_CODED_CLASS + 1].max() == 0
    assert bits[FINEST_CODED_CLASS + 1] == bits[FINEST_CODED_CLASS + 8] == 1
    assert bits[FINEST_CODED_CLASS + 9] == 2


def test_symbols_are_counted_by_table():
    symbols = np.array([3, 3, 255, 3], np.uint8)
    counts = count_symbols(symbols, np.array([0, 0, 0, 1], np.uint8), 2)
    assert counts[0, 3] == 2 and counts[0, 255] == 1 and counts[1, 3] == 1 and counts.sum() == 4


def test_a_class_without_a_table_and_a_wrong_list_of_escapes_are_refused():
    rng = np.random.default_rng(3)
    tensor = tensor_of_classes(rng, [30] * 20, 20, scale=60.0)
    data = bytearray(encode_codes([tensor]))
    with pytest.raises(ArtifactError, match="coding table 9 of 1"):
        decode_codes(PayloadReader(memoryview(bytes([9]) + data[1:])), [tensor.grid])
    _, escapes, _ = split_codes(tensor.codes_RC, tensor.grid.classes())
    assert len(escapes)
    listed = data.index(np.uint32(len(escapes)).tobytes() + escapes.tobytes())
    fewer = data[:listed] + np.uint32(len(escapes) - 1).tobytes() + escapes[1:].tobytes()
    with pytest.raises(ArtifactError, match="escaped"):
        decode_codes(PayloadReader(memoryview(fewer + data[listed + 4 + escapes.nbytes :])), [tensor.grid])
