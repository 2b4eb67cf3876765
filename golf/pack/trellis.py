"""Quantizer "trellis": GPTQ whose codes follow a trellis (TCQ, Marcellin and Fischer 1990), coded by state.

A weight is code x step, as in the quantizer "entropy", with half its step. A state machine per row says of
each column whether the code is even or odd, so that an entropy coder sees a grid as coarse as before; which
grid comes next follows from the code before. Among all paths the encoder finds the one of least error
(Viterbi), error feedback included: each surviving path has residuals of its own.

    code = 2 symbol + parity,   parity = a bit of the state,   state' = (2 state + input) mod S,
    input = lowest bit of the symbol xor the parity check of the state

The bits are those of Ungerboeck's codes (IEEE Trans. IT 28, 1982) in feed-forward form: symbols' lowest bits
and parities label the cosets of 4Z. Where most of a column's codes are 0, an odd state would force errors on
them that its neighbors' states do not ask for: such a column is plain, its codes are even and the states pass
it by. Small tensors and rows of absurd steps are scalar: their codes are those of the entropy coder.
The payload:

    log2 of the number of states u8 | that of "entropy", with these codes:
    count u32, codes of small tensors and scalar rows |
    by tensor a bit for each row: whether it is scalar, and for each column: whether it is plain |
    table by context u8[128] | tables | num_escapes u32 | escapes i32 |
    by number of columns: low bits, count u32, stream

Shapes: R rows, C columns, S states, B columns of a block, N symbols, K tables, A the 256 symbols.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from golf.pack.calibrate import Calibration
from golf.pack.container import ArtifactError, PayloadReader, encode_count
from golf.pack.entropy import dequantize_all, encode_entropy, fit_entropy, read_quantized
from golf.pack.entropy_coder import (
    ESCAPE,
    NUM_CONTEXTS,
    RAW_BITS,
    RansDecoder,
    choose_lanes,
    code_lengths,
    count_symbols,
    decode_codes,
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
from golf.pack.gptq import Factors, shrink
from golf.pack.layout import Fitted, Layout, Weights, Wrap
from golf.pack.quantize import QuantizedTensor, Rounded, Rounding, round_scalar

CHECKS = {2: (0b101, 0b10), 3: (0b1011, 0b100), 4: (0b10011, 0b100)}
"""By log2 of the number of states: the parity checks, octal 5 and 2, 13 and 4, 23 and 4. Bit i of the first
is the part of the input i symbols ago in a symbol's lowest bit; the second's is the parity's delay."""
LOG2_STATES = 3
STEP_EXPONENT = -7
"""Eighths of an octave by which the step s of a code is finer than a scalar one, d.

A weight's error falls as 4^-bits under either quantizer, d(error) / d(bits) = -2 ln(2) error, so that slopes
are equal at equal error, d^2 / 12. With s = d / 2, symbols d apart, 8 states have 1.0 dB less than that:
    error = 10^-0.1 (2 s)^2 / 12,   so   s = d / 2 x 10^0.05 = 2^(-6.7 / 8) d, and -7 is the next eighth.
What bits cost the values is a matter of that error over their power alone: the ridge of `golf.pack.gptq`,
step^2 / (12 sigma^2) with the scalar step, and the dead zone that it makes are those of scalar codes."""
OCTAVE = 8
"""In contexts: a symbol's step is two of its grid's."""
MOST_SYMBOL = 1 << 19
"""Codes are exact in fp32, and in 32 bits however many low bits a context gives up."""
MOST_WEIGHT = MOST_SYMBOL / 4
"""A row whose weights pass so many symbol steps is scalar."""
PLAIN_SHARE = 0.85
"""A column with a larger share of scalar codes that are 0 is plain."""
_PATH_COLUMNS = 32
_CHUNK_ROWS = {False: 512, True: 8192}
"""Rows that go through the columns together: what a processor's cache holds, what keeps a GPU busy."""
_FAR = 1e30


class Trellis(NamedTuple):
    """The state machine as data."""

    parity_S: np.ndarray
    """Of the codes in a state, uint8."""
    next_S2: np.ndarray
    """State after a symbol, by its lowest bit, uint8."""

    @classmethod
    def of(cls, log2_states: int) -> "Trellis":
        """The machine of 2 ** log2_states states."""
        check, delay = CHECKS[log2_states]
        states = np.arange(1 << log2_states)
        # Bit i of a state is the input i + 1 symbols ago.
        taps = np.array([bin(state & check >> 1).count("1") & 1 for state in states])
        inputs_S2 = np.array([0, 1]) ^ taps[:, None]
        next_S2 = (2 * states[:, None] + inputs_S2) % len(states)
        parity = states >> (delay.bit_length() - 2) & 1
        return cls(parity.astype(np.uint8), next_S2.astype(np.uint8))

    def parities(self, codes_RC: np.ndarray, plain_C: np.ndarray) -> np.ndarray:
        """The parity that each code must have after the symbols before it in its row, uint8 (R, C)."""
        parities_CR = np.zeros(codes_RC.shape[::-1], dtype=np.uint8)
        lowest_CR = np.ascontiguousarray((codes_RC >> 1 & 1).T.astype(np.uint8))
        state_R, following = np.zeros(len(codes_RC), dtype=np.uint8), self.next_S2.reshape(-1)
        for column in np.flatnonzero(~plain_C):
            parities_CR[column] = self.parity_S[state_R]
            state_R = following[2 * state_R | lowest_CR[column]]
        return parities_CR.T


def round_on_trellis(
    log2_states: int, weight_RC: Tensor, step_R: Tensor, step_C: Tensor, factors: Factors | None
) -> Rounded:
    """Codes on the trellis.

    Without `factors` the weights are rounded as they are, without feedback.
    """
    # Without factors they come in float64.
    weight_RC = weight_RC.float()
    largest_R = (weight_RC / step_C).abs().amax(1) / (2 * step_R)
    scalar_R = largest_R > MOST_WEIGHT
    target_RC = weight_RC if factors is None else shrink(weight_RC, factors)
    plain_C = ((target_RC / step_C).abs() < step_R[:, None]).float().mean(0) > PLAIN_SHARE
    codes_RC, from_RC = torch.zeros_like(target_RC), target_RC.clone()
    group_R = torch.zeros_like(step_R, dtype=torch.long) if factors is None else factors.group_R
    inverse_GCC = None if factors is None else factors.inverse_GCC.float()
    trellis, sorted_R = Trellis.of(log2_states), group_R.argsort(stable=True)
    for rows in sorted_R[~scalar_R[sorted_R]].split(_CHUNK_ROWS[weight_RC.is_cuda]):
        codes_RC[rows], from_RC[rows] = _best_paths(
            trellis, target_RC[rows], step_R[rows], step_C, plain_C.tolist(), group_R[rows], inverse_GCC
        )
    rows = scalar_R.nonzero()[:, 0]
    if len(rows):
        own = None if factors is None else factors._replace(group_R=group_R[rows])
        symbols_RC, from_RC[rows], _ = round_scalar(weight_RC[rows], 2 * step_R[rows], step_C, own)
        codes_RC[rows] = 2 * symbols_RC
    return Rounded(codes_RC, from_RC, plain_C.cpu().numpy())


def _best_paths(
    trellis: Trellis,
    target_RC: Tensor,
    step_R: Tensor,
    step_C: Tensor,
    plain: list[bool],
    group_R: Tensor,
    inverse_GCC: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The codes of the paths of least cost and the values they were rounded from; groups are in order.

    Cost of a path: the sum of squared errors in steps, which is that of the loss since a column's step is
    proportional to U_cc. All rows go through a column at once; state t = 2 i + input comes from i or i + S/2.
    """
    rows, columns = target_RC.shape
    states, device = len(trellis.parity_S), target_RC.device
    # Offset of the coset by state and input: 2 x the symbol's lowest bit + the parity.
    offset_S2 = np.zeros((states, 2), dtype=np.float32)
    for state, bit in np.ndindex(states, 2):
        offset_S2[state, trellis.next_S2[state, bit] & 1] = 2 * bit + trellis.parity_S[state]
    offset_S21 = torch.from_numpy(offset_S2)[:, :, None].to(device)
    cost_SR = torch.full((states, rows), _FAR, device=device)
    cost_SR[0] = 0.0
    # Residuals of the surviving paths, equal without feedback; after a column its place holds its error.
    rest_SCR = target_RC.T.expand(states, columns, rows).contiguous()
    came_CSR = torch.empty((columns, states, rows), dtype=torch.bool, device=device)
    codes_CSR = torch.empty((columns, states, rows), dtype=torch.int32, device=device)
    from_CSR = torch.empty((columns, states, rows), device=device)
    slices = _slices(group_R)
    halves = (2, states // 2, 2, rows)
    for begin in range(0, columns, _PATH_COLUMNS):
        end = min(columns, begin + _PATH_COLUMNS)
        block_SBR = rest_SCR[:, begin:end].contiguous()
        origin_SR = torch.arange(states, device=device)[:, None].expand(states, rows)
        for column in range(end - begin):
            step_R1 = step_R * step_C[begin + column]
            value_SR = block_SBR[:, column] / step_R1
            if plain[begin + column]:
                code_SR = (value_SR / 2).clamp(-MOST_SYMBOL, MOST_SYMBOL).round() * 2
                cost_SR = cost_SR + (value_SR - code_SR).square()
            else:
                # To the nearest of 4Z + offset.
                code_S2R = ((value_SR[:, None] - offset_S21) / 4).clamp(-MOST_SYMBOL / 2, MOST_SYMBOL / 2)
                code_S2R = code_S2R.round() * 4 + offset_S21
                cost_22R = ((value_SR[:, None] - code_S2R).square() + cost_SR[:, None]).view(halves)
                second = cost_22R[1] < cost_22R[0]
                came_CSR[begin + column] = second.view(states, rows)
                cost_SR = torch.where(second, cost_22R[1], cost_22R[0]).view(states, rows)
                code_22R = code_S2R.view(halves)
                code_SR = torch.where(second, code_22R[1], code_22R[0]).view(states, rows)
                paired = block_SBR.view(2, states // 2, 1, end - begin, rows)
                block_SBR = torch.where(second[:, :, None], paired[1], paired[0]).view(block_SBR.shape)
                origins = origin_SR.reshape(2, states // 2, 1, rows)
                origin_SR = torch.where(second, origins[1], origins[0]).view(states, rows)
            codes_CSR[begin + column] = code_SR
            from_CSR[begin + column] = block_SBR[:, column]
            if inverse_GCC is None:
                continue
            row_BR = inverse_GCC[:, begin + column, begin + column : end].T
            row_BR = row_BR[:, group_R] if len(inverse_GCC) > 1 else row_BR
            error_SR = (block_SBR[:, column] - code_SR * step_R1) / row_BR[0]
            block_SBR[:, column] = error_SR
            block_SBR[:, column + 1 :] -= error_SR[:, None] * row_BR[1:]
        if inverse_GCC is not None and end < columns:
            later_SCR = rest_SCR[:, end:].gather(0, origin_SR[:, None].expand(-1, columns - end, -1))
            for group, own in slices:
                later_SCR[:, :, own] -= inverse_GCC[group, begin:end, end:].T @ block_SBR[:, :, own]
            rest_SCR[:, end:] = later_SCR
    state_1R = cost_SR.argmin(0, keepdim=True)
    codes_CR = torch.empty((columns, rows), device=device)
    from_CR = torch.empty((columns, rows), device=device)
    for column in range(columns - 1, -1, -1):
        codes_CR[column] = codes_CSR[column].gather(0, state_1R)[0]
        from_CR[column] = from_CSR[column].gather(0, state_1R)[0]
        if not plain[column]:
            state_1R = (state_1R >> 1) + states // 2 * came_CSR[column].gather(0, state_1R)
    return codes_CR.T, from_CR.T


def _slices(group_R: Tensor) -> list[tuple[int, slice]]:
    """Each group and the rows that are of it; groups are in order."""
    groups, counts = group_R.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    spans = zip((ends - counts).tolist(), ends.tolist(), strict=True)
    return [(group, slice(*span)) for group, span in zip(groups.tolist(), spans, strict=True)]


def trellis_rounding(log2_states: int) -> Rounding:
    """Rounding of matrices and embeddings on the trellis; a symbol's step is two of a code's."""
    return Rounding(partial(round_on_trellis, log2_states), STEP_EXPONENT, OCTAVE + STEP_EXPONENT)


def fit_trellis(
    weights: Weights, layout: Layout, calibration: Calibration | None, limit_bytes: int, wrap: Wrap
) -> Fitted:
    """As `fit_entropy`, matrices and embeddings on the trellis."""
    rounding = trellis_rounding(LOG2_STATES)
    return fit_entropy(weights, layout, calibration, limit_bytes, wrap, rounding, encode_trellis)


def decode_trellis(payload: memoryview, layout: Layout) -> Weights:
    """fp32 weights; raises ArtifactError unless the payload is one of tensors of this layout."""
    return dequantize_all(*read_trellis(payload, layout), layout)


def encode_trellis(
    tensors: dict[str, QuantizedTensor], layout: Layout, base: float, log2_states: int = LOG2_STATES
) -> bytes:
    """The payload of quantized tensors, in the order of the layout."""
    found = {name: tensors[name].plain_C for name in layout}
    plain = {name: plain_C for name, plain_C in found.items() if plain_C is not None}
    encode = partial(encode_by_state, Trellis.of(log2_states), layout, plain)
    return bytes([log2_states]) + encode_entropy(tensors, layout, base, encode)


def read_trellis(payload: memoryview, layout: Layout) -> tuple[float, dict[str, QuantizedTensor]]:
    """The base step and the tensors of `encode_trellis`; raises ArtifactError for another payload."""
    reader = PayloadReader(payload)
    log2_states = reader.take(1)[0]
    if log2_states not in CHECKS:
        raise ArtifactError(f"there is no trellis of 2^{log2_states} states")
    plain: dict[str, np.ndarray] = {}
    decode = partial(decode_by_state, Trellis.of(log2_states), layout, plain)
    base, tensors = read_quantized(reader.rest, layout, decode)
    return base, {name: tensor._replace(plain_C=plain.get(name)) for name, tensor in tensors.items()}


class Stack(NamedTuple):
    """The rows on the trellis of all tensors of as many columns, one above the other."""

    names: list[str]
    rows: list[np.ndarray]
    """By tensor, the indices of its rows that are on the trellis."""
    contexts_CR: np.ndarray
    """Of the symbols, column by column: neighbors in the stream belong to different rows."""
    plain_CR: np.ndarray
    """Whether a symbol is in a plain column."""


def _stacks(
    is_scalar: dict[str, np.ndarray], plain: dict[str, np.ndarray], contexts: dict[str, np.ndarray]
) -> list[Stack]:
    by_columns: dict[int, list[str]] = {}
    for name, scalar_R in is_scalar.items():
        if not scalar_R.all():
            by_columns.setdefault(contexts[name].shape[1], []).append(name)
    stacks = []
    for columns, names in sorted(by_columns.items()):
        rows = [np.flatnonzero(~is_scalar[name]) for name in names]
        stacked = np.concatenate([contexts[name][own] for name, own in zip(names, rows, strict=True)])
        plain_CR = [
            np.broadcast_to(plain[name][:, None], (columns, len(own)))
            for name, own in zip(names, rows, strict=True)
        ]
        contexts_CR = np.ascontiguousarray(symbol_contexts(stacked).T)
        stacks.append(Stack(names, rows, contexts_CR, np.concatenate(plain_CR, axis=1)))
    return stacks


def symbol_contexts(contexts_RC: np.ndarray) -> np.ndarray:
    """Contexts by the step of the symbols, from those by the step of the codes."""
    return np.maximum(contexts_RC, OCTAVE) - np.uint8(OCTAVE)


def _num_lanes(stack: Stack) -> int:
    """No more than the rows, so that a row is in a group of lanes once at most."""
    return min(choose_lanes(stack.contexts_CR.size), stack.contexts_CR.shape[1])


def _table_numbers(stacks: list[Stack]) -> np.ndarray:
    """Table by context for even codes, uint8; odd ones have as many tables behind those."""
    counts = [np.bincount(stack.contexts_CR.reshape(-1), minlength=NUM_CONTEXTS) for stack in stacks]
    return share_tables(np.sum(counts, axis=0) // 2)


def encode_by_state(
    trellis: Trellis,
    layout: Layout,
    plain: dict[str, np.ndarray],
    codes: list[np.ndarray],
    contexts: list[np.ndarray],
) -> bytes:
    """The codes of all tensors: those of scalar rows, then those on the trellis."""
    named, context_of = dict(zip(layout, codes, strict=True)), dict(zip(layout, contexts, strict=True))
    is_scalar = _find_scalar(trellis, plain, named)
    own = _scalar_codes(named, is_scalar)
    scalar = encode_codes(own, _scalar_contexts(layout, is_scalar, context_of))
    sections = [encode_count(len(scalar)), scalar]
    for name, rows_R in is_scalar.items():
        sections += [np.packbits(rows_R).tobytes(), np.packbits(plain[name]).tobytes()]
    stacks = _stacks(is_scalar, plain, context_of)
    if not stacks:
        return b"".join(sections)
    tables = _table_numbers(stacks)
    num_tables = int(tables.max()) + 1
    coded = [_split_stack(stack, named, tables) for stack in stacks]
    frequencies_KA = normalize_counts(
        np.sum([count_symbols(each.bytes_N, each.tables_N, 2 * num_tables) for each in coded], axis=0)
    )
    listed = np.concatenate([each.escapes for each in coded])
    sections += [tables.tobytes(), encode_tables(frequencies_KA), encode_count(len(listed)), listed.tobytes()]
    for stack, each in zip(stacks, coded, strict=True):
        stream = encode_rans(each.bytes_N, each.tables_N, frequencies_KA, _num_lanes(stack))
        sections += [each.low, encode_count(len(stream)), stream]
    return b"".join(sections)


class Split(NamedTuple):
    """The codes of a stack in the parts that are stored."""

    bytes_N: np.ndarray
    """Symbols without their low bits, uint8."""
    tables_N: np.ndarray
    """By context and parity, uint8."""
    escapes: np.ndarray
    low: bytes


def _split_stack(stack: Stack, codes: dict[str, np.ndarray], tables: np.ndarray) -> Split:
    codes_RC = np.concatenate(
        [codes[name][rows].astype(np.int32) for name, rows in zip(stack.names, stack.rows, strict=True)]
    )
    codes_CR = np.ascontiguousarray(codes_RC.T)
    bytes_N, escapes, low = split_codes(codes_CR >> 1, stack.contexts_CR)
    tables_CR = tables[stack.contexts_CR] + (int(tables.max()) + 1) * (codes_CR & 1)
    return Split(bytes_N, tables_CR.reshape(-1).astype(np.uint8), escapes, low)


def _find_scalar(
    trellis: Trellis, plain: dict[str, np.ndarray], codes: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Of each tensor that is not small, which rows are no paths of the trellis or absurd, bool (R,)."""
    is_scalar = {}
    for name, plain_C in plain.items():
        is_off_RC = (codes[name] & 1) != trellis.parities(codes[name], plain_C)
        is_off_RC |= np.abs(codes[name].astype(np.int64) >> 1) > MOST_SYMBOL
        is_scalar[name] = is_off_RC.any(1)
    return is_scalar


def _scalar_codes(codes: dict[str, np.ndarray], is_scalar: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Codes of small tensors and of scalar rows, whose code is their symbol."""
    return [
        codes_RC if name not in is_scalar else smallest_int(codes_RC[is_scalar[name]] >> 1)
        for name, codes_RC in codes.items()
    ]


def _scalar_contexts(
    layout: Layout, is_scalar: dict[str, np.ndarray], context_of: dict[str, np.ndarray]
) -> list[np.ndarray]:
    """Contexts of small tensors and of scalar rows."""
    return [
        context_of[name] if name not in is_scalar else symbol_contexts(context_of[name][is_scalar[name]])
        for name in layout
    ]


def decode_by_state(
    trellis: Trellis,
    layout: Layout,
    plain: dict[str, np.ndarray],
    reader: PayloadReader,
    contexts: list[np.ndarray],
) -> list[np.ndarray]:
    """The inverse of `encode_by_state`, which fills in `plain`.

    Raises ArtifactError unless the rest of the payload is its.
    """
    context_of = dict(zip(layout, contexts, strict=True))
    scalar = PayloadReader(reader.take(reader.take_count()))
    is_scalar = {}
    for name, part in layout.items():
        if part.kind != "small":
            is_scalar[name], plain[name] = (
                np.unpackbits(reader.take_array("u1", (length + 7) // 8), count=length).astype(bool)
                for length in context_of[name].shape
            )
    decoded = decode_codes(scalar, _scalar_contexts(layout, is_scalar, context_of))
    codes = dict(zip(layout, decoded, strict=True))
    for name, rows_R in is_scalar.items():
        symbols, codes[name] = codes[name], np.zeros(context_of[name].shape, dtype=np.int64)
        codes[name][rows_R] = 2 * symbols.astype(np.int64)
    stacks = _stacks(is_scalar, plain, context_of)
    if stacks:
        _decode_stacks(trellis, reader, stacks, codes)
    if len(reader.rest):
        raise ArtifactError(f"{len(reader.rest)} bytes follow the last code")
    return [smallest_int(codes_RC) for codes_RC in codes.values()]


def _decode_stacks(
    trellis: Trellis, reader: PayloadReader, stacks: list[Stack], codes: dict[str, np.ndarray]
) -> None:
    """Fills in the rows on the trellis."""
    tables = reader.take_array("u1", NUM_CONTEXTS)
    frequencies_KA = decode_tables(reader)
    if len(frequencies_KA) != 2 * (int(tables.max()) + 1):
        raise ArtifactError(
            f"there are {len(frequencies_KA)} coding tables for {int(tables.max()) + 1} by parity"
        )
    escapes = reader.take_array("<i4", reader.take_count())
    if np.any(np.abs(escapes.astype(np.int64)) > MOST_SYMBOL):
        raise ArtifactError(f"an escaped code is beyond {MOST_SYMBOL:,}")
    for stack in stacks:
        low = take_low_bits(reader, stack.contexts_CR)
        decoder = RansDecoder(reader.take(reader.take_count()), _num_lanes(stack), frequencies_KA)
        bytes_N, parities_N, num_escaped = _take_symbols(trellis, decoder, stack, tables, (escapes, low))
        decoder.close()
        symbols_CR = join_codes(bytes_N, stack.contexts_CR, escapes[:num_escaped], low)
        escapes = escapes[num_escaped:]
        codes_CR = 2 * symbols_CR.astype(np.int64) + parities_N.reshape(symbols_CR.shape)
        ends = np.cumsum([len(rows) for rows in stack.rows])[:-1]
        for name, rows, own_CR in zip(stack.names, stack.rows, np.split(codes_CR, ends, axis=1), strict=True):
            codes[name][rows] = own_CR.T
    if len(escapes):
        raise ArtifactError(f"{len(escapes)} escaped codes are listed beyond those that are marked")


def _take_symbols(
    trellis: Trellis,
    decoder: RansDecoder,
    stack: Stack,
    tables: np.ndarray,
    listed: tuple[np.ndarray, list[np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, int]:
    """Symbols without their low bits and parities, uint8 (N,), and the number of escaped ones.

    A group of lanes at a time, each row in a state of its own. `listed` are escapes, of which the first are
    this stack's, and low bits: where a symbol has any, the state follows from the lowest of them.
    """
    columns, rows = stack.contexts_CR.shape
    (escapes, low), lanes = listed, _num_lanes(stack)
    tables_N, plain_N = tables[stack.contexts_CR.reshape(-1)], stack.plain_CR.reshape(-1)
    raw_N = RAW_BITS[stack.contexts_CR.reshape(-1)]
    lowest_N = np.zeros_like(raw_N)
    for count, values in enumerate(low, start=1):
        lowest_N[raw_N == count] = values & 1
    is_raw_N, any_raw, any_plain = raw_N > 0, bool(raw_N.any()), bool(plain_N.any())
    bytes_N, parities_N = np.empty_like(tables_N), np.empty_like(tables_N)
    states_R, following = np.zeros(rows, dtype=np.uint8), trellis.next_S2.reshape(-1)
    num_tables, num_escaped = np.uint8(tables.max() + 1), 0
    for begin in range(0, columns * rows, lanes):
        first, end = begin % rows, min(begin + lanes, columns * rows)
        within = first + end - begin <= rows
        own = slice(first, first + end - begin) if within else np.arange(first, first + end - begin) % rows
        states = states_R[own]
        parities = trellis.parity_S[states]
        if any_plain:
            parities = np.where(plain_N[begin:end], np.uint8(0), parities)
        symbols = decoder.take(tables_N[begin:end] + num_tables * parities)
        bytes_N[begin:end], parities_N[begin:end] = symbols, parities
        bits = symbols & 1
        escaped = np.flatnonzero(symbols == ESCAPE & 0xFF)
        if len(escaped):
            upper = escapes[num_escaped : num_escaped + len(escaped)]
            if len(upper) < len(escaped):
                raise ArtifactError(f"more codes are marked as escaped than {len(escapes)}, which are listed")
            bits[escaped] = upper & 1
            num_escaped += len(escaped)
        if any_raw:
            bits = np.where(is_raw_N[begin:end], lowest_N[begin:end], bits)
        after = following[2 * states | bits]
        states_R[own] = np.where(plain_N[begin:end], states, after) if any_plain else after
    return bytes_N, parities_N, num_escaped


def inspect_trellis(
    payload: memoryview, layout: Layout
) -> tuple[float, dict[str, QuantizedTensor], list[tuple[float, float, int]]]:
    """Base step, tensors, and by tensor what `measure_codes` says: bits, entropy in bits, escaped codes.

    The entropy of symbols on the trellis is that of order 0 within each table and parity.
    """
    base, tensors = read_trellis(payload, layout)
    named = {name: tensor.codes_RC for name, tensor in tensors.items()}
    plain = {name: tensor.plain_C for name, tensor in tensors.items() if tensor.plain_C is not None}
    context_of = {name: tensor.grid.contexts() for name, tensor in tensors.items()}
    is_scalar = _find_scalar(Trellis.of(payload[0]), plain, named)
    scalar = measure_codes(_scalar_codes(named, is_scalar), _scalar_contexts(layout, is_scalar, context_of))
    stacks = _stacks(is_scalar, plain, context_of)
    if not stacks:
        return base, tensors, scalar
    tables = _table_numbers(stacks)
    num_tables = 2 * (int(tables.max()) + 1)
    counts: dict[str, tuple[np.ndarray, int]] = {}
    for name, rows_R in is_scalar.items():
        if not rows_R.all():
            (stack,) = _stacks({name: rows_R}, plain, context_of)
            each = _split_stack(stack, named, tables)
            counted_KA = count_symbols(each.bytes_N, each.tables_N, num_tables)
            counts[name] = counted_KA, int(RAW_BITS[stack.contexts_CR].sum())
    total_KA: np.ndarray = np.sum([counted_KA for counted_KA, _ in counts.values()], axis=0)
    coded_KA, entropy_KA = code_lengths(total_KA)
    measured = []
    for name, (bits, entropy, num_escaped) in zip(layout, scalar, strict=True):
        counts_KA, raw = counts.get(name, (np.zeros_like(total_KA), 0))
        bits, entropy = (
            bits + raw + float(np.sum(counts_KA * coded_KA)),
            entropy + raw + float(np.sum(counts_KA * entropy_KA)),
        )
        measured.append((bits, entropy, num_escaped + int(counts_KA[:, ESCAPE].sum())))
    return base, tensors, measured
