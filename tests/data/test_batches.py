from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.data.batches import ShuffledDocuments, TrainBatches
from golf.data.shards import DataError, read_shard, write_shard

BOS = 1


def numbered_shards(lengths: list[int]) -> list[np.ndarray]:
    """Shards whose tokens are all different (after the first), so that a target names its place."""
    stream = np.arange(2, 2 + sum(lengths), dtype=np.uint16)
    shards = np.split(stream, np.cumsum(lengths)[:-1])
    shards[0][0] = BOS
    return shards


def documents(seed: int, num_tokens: int, longest: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    tokens = draw.integers(2, 300, num_tokens).astype(np.uint16)
    position = 0
    while position < num_tokens:
        tokens[position] = BOS
        position += int(draw.integers(1, longest))
    return tokens


def serve(batches: TrainBatches, num_batches: int, num_sequences: int, context: int) -> list[torch.Tensor]:
    return [torch.stack(batches.next(num_sequences, context)) for _ in range(num_batches)]


shapes = st.lists(st.integers(1, 90), min_size=1, max_size=5), st.integers(1, 20), st.integers(0, 99)


@settings(max_examples=150, deadline=None)
@given(*shapes)
def test_every_target_is_served_once_an_epoch(lengths: list[int], context: int, seed: int):
    shards = numbered_shards(lengths)
    num_sequences = sum(max(0, length - 1) // context for length in lengths)
    if not num_sequences:
        with pytest.raises(ValueError, match=f"none holds the {context + 1} of a sequence"):
            TrainBatches(shards, seed, 0).next(1, context)
        return
    batches = TrainBatches(shards, seed, 0)
    for epoch in range(3):
        assert batches.epoch == pytest.approx(epoch)
        inputs, targets = batches.next(num_sequences, context)
        served = Counter(targets.flatten().tolist())
        assert set(served.values()) == {1}
        for shard in shards:
            missed = [int(token) for token in shard[1:] if int(token) not in served]
            assert len(missed) == (len(shard) - 1) % context
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        assert ((targets[:, 0] == inputs[:, 0] + 1) | (inputs[:, 0] == BOS)).all()


def test_batches_are_int64_on_the_cpu_and_contiguous():
    inputs, targets = TrainBatches(numbered_shards([100]), 0, 0).next(3, 8)
    for part in (inputs, targets):
        assert part.shape == (3, 8) and part.dtype == torch.int64
        assert part.device.type == "cpu" and part.is_contiguous()


def test_a_small_batch_mixes_shards_and_places():
    shards = numbered_shards([400, 400, 400, 400])
    inputs, _ = TrainBatches(shards, 3, 0).next(16, 10)
    assert len({int(row[0]) // 400 for row in inputs}) == 4
    assert (inputs[:, 0].diff() != 10).any()


def test_the_order_depends_on_the_seed_and_on_the_epoch_alone():
    shards = numbered_shards([203, 300])
    first = serve(TrainBatches(shards, 5, 0), 20, 5, 10)
    again = serve(TrainBatches(shards, 5, 0), 50, 2, 10)
    assert torch.equal(torch.cat(first, dim=1), torch.cat(again, dim=1))
    other = serve(TrainBatches(shards, 6, 0), 20, 5, 10)
    assert not torch.equal(torch.cat(first, dim=1), torch.cat(other, dim=1))
    assert not torch.equal(torch.cat(first[:9], dim=1), torch.cat(first[9:18], dim=1))


def test_the_remainder_of_a_shard_moves_with_the_epoch():
    batches = TrainBatches(numbered_shards([108]), 0, 0)
    missed = {
        frozenset(range(3, 110)) - frozenset(batches.next(10, 10)[1].flatten().tolist()) for _ in range(8)
    }
    assert len(missed) > 3


@settings(max_examples=60, deadline=None)
@given(
    before=st.integers(0, 30),
    after=st.integers(1, 30),
    num_sequences=st.integers(1, 7),
    seed=st.integers(0, 9),
)
def test_a_resumed_order_continues_exactly(before: int, after: int, num_sequences: int, seed: int):
    shards = numbered_shards([57, 80, 31])
    batches = TrainBatches(shards, seed, 0)
    serve(batches, before, num_sequences, 8)
    state = batches.state_dict()
    resumed = TrainBatches(shards, seed, 0)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    for context in (8, 12):
        expected = serve(batches, after, num_sequences, context)
        found = serve(resumed, after, num_sequences, context)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert batches.epoch == resumed.epoch


def test_the_state_survives_json():
    import json

    batches = TrainBatches(numbered_shards([300]), 1, 0)
    batches.next(7, 9)
    resumed = TrainBatches(numbered_shards([300]), 1, 0)
    resumed.load_state_dict(json.loads(json.dumps(batches.state_dict())))
    assert torch.equal(torch.stack(batches.next(7, 9)), torch.stack(resumed.next(7, 9)))


@pytest.mark.parametrize(("length", "seed", "key"), [(300, 2, "seed"), (299, 1, "num_tokens")])
def test_a_state_of_other_data_or_another_seed_is_refused(length: int, seed: int, key: str):
    state = TrainBatches(numbered_shards([300]), 1, 0).state_dict()
    with pytest.raises(ValueError, match=f"the batches' {key} is"):
        TrainBatches(numbered_shards([length]), seed, 0).load_state_dict(state)


def test_a_change_of_context_starts_a_new_order_and_keeps_count():
    shards = numbered_shards([1001])
    batches = TrainBatches(shards, 0, 0)
    batches.next(50, 10)
    assert batches.epoch == pytest.approx(0.5)
    inputs, _ = batches.next(50, 20)
    assert inputs.shape == (50, 20)
    assert batches.epoch == pytest.approx(1.5)


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    longest=st.integers(2, 60),
    wanted=st.integers(1, 120),
    seed=st.integers(0, 99),
)
def test_held_out_documents_are_the_last_ones_and_never_served(
    lengths: list[int], longest: int, wanted: int, seed: int
):
    stream = documents(seed, sum(lengths), longest)
    shards = np.split(stream, np.cumsum(lengths)[:-1])
    limit = len(stream) // 10
    starts = np.flatnonzero(stream == BOS)
    sizes = (len(stream) - starts)[::-1]
    allowed = sizes[sizes <= limit]
    if not len(allowed):
        with pytest.raises(ValueError, match="no document starts in the last tenth"):
            TrainBatches(shards, seed, wanted)
        return
    enough = allowed[allowed >= wanted]
    expected = int(enough.min()) if len(enough) else int(allowed.max())
    batches = TrainBatches(shards, seed, wanted)
    assert batches.held_out.dtype == np.uint16
    assert batches.held_out.tolist() == stream[len(stream) - expected :].tolist()


def test_no_held_out_target_is_served():
    stream = np.arange(2, 1002, dtype=np.uint16)
    stream[[0, 880, 930, 970]] = BOS
    batches = TrainBatches(np.split(stream, [400, 950]), 0, held_out_tokens=60)
    assert batches.held_out.tolist() == stream[930:].tolist()
    served = torch.cat([batches.next(10, 4)[1] for _ in range(60)]).flatten().tolist()
    assert max(served) < 932
    assert not set(served) & (set(batches.held_out.tolist()) - {BOS})


def test_a_token_outside_the_vocabulary_is_named_with_shard_and_position(tmp_path: Path):
    tokens = np.full(500, 7)
    tokens[[0, 321]] = BOS, 400
    write_shard(tmp_path / "fineweb_train_000000.bin", tokens)
    batches = TrainBatches([read_shard(tmp_path / "fineweb_train_000000.bin")], 0, 0, vocab_size=400)
    with pytest.raises(DataError, match=r"fineweb_train_000000\.bin: token 321 is 400; the vocabulary has"):
        serve(batches, 10, 10, 5)


def shuffled(shards: list[np.ndarray], seed: int, held_out_tokens: int = 0) -> TrainBatches:
    return ShuffledDocuments(shards, seed, held_out_tokens)


def documents_in_shards(seed: int, lengths: list[int]) -> list[np.ndarray]:
    """Shards of documents of 1 to 9 tokens; all tokens but BOS differ and grow."""
    draw = np.random.default_rng(seed)
    stream = np.arange(2, 2 + sum(lengths), dtype=np.uint16)
    starts = np.cumsum(draw.integers(1, 10, sum(lengths)))
    stream[[0, *starts[starts < sum(lengths)]]] = BOS
    return np.split(stream, np.cumsum(lengths)[:-1])


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    context=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_shuffled_documents_are_served_once_an_epoch_and_whole(lengths: list[int], context: int, seed: int):
    shards = documents_in_shards(seed, lengths)
    stream = np.concatenate(shards)
    num_sequences = (len(stream) - 1) // context
    if not num_sequences:
        return
    batches = shuffled(shards, seed)
    for _ in range(2):
        inputs, targets = batches.next(num_sequences, context)
        served = Counter(targets.flatten().tolist())
        served.pop(BOS, None)
        assert set(served.values()) <= {1}
        assert len(stream) - targets.numel() <= context + 1
        # Within a document tokens follow each other; a new one starts with BOS, or with a shard.
        firsts = {int(shard[0]) for shard in shards}
        for row in torch.cat((inputs, targets[:, -1:]), 1).tolist():
            for left, right in pairwise(row):
                assert right == BOS or left == BOS or right == left + 1 or right in firsts


def test_the_order_of_documents_is_a_function_of_seed_and_epoch():
    shards = documents_in_shards(0, [400, 300])

    def neighbours(batches: TrainBatches) -> set[tuple[int, int]]:
        """What stands before and after each BOS."""
        rows = batches.next(699 // 50, 50)[0].tolist()
        return {(row[i - 1], row[i + 1]) for row in rows for i in range(1, 49) if row[i] == BOS}

    batches = shuffled(shards, 1)
    first, second = neighbours(batches), neighbours(batches)
    assert first == neighbours(shuffled(shards, 1))
    for other in (second, neighbours(shuffled(shards, 2))):
        assert len(first & other) < len(first) / 10


def test_a_resumed_order_of_documents_continues_exactly():
    shards = documents_in_shards(3, [200, 150])
    batches = shuffled(shards, 4, held_out_tokens=20)
    serve(batches, 37, 3, 8)
    resumed = shuffled(shards, 4, held_out_tokens=20)
    resumed.load_state_dict(batches.state_dict())
    for one, other in zip(serve(batches, 40, 3, 8), serve(resumed, 40, 3, 8), strict=True):
        assert torch.equal(one, other)


def test_a_token_outside_the_vocabulary_is_named_in_shuffled_documents_too():
    shards = documents_in_shards(5, [300])
    shards[0][123] = 999
    batches = ShuffledDocuments(shards, 0, 0, vocab_size=400)
    with pytest.raises(DataError, match="training shard 0: token 123 is 999; the vocabulary has ids"):
        serve(batches, 10, 10, 5)
