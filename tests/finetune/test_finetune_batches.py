"""Every item once an epoch, and on from where it stood."""

import pytest

from golf.finetune.batches import FinetuneBatches, PreferenceBatches, ResponseBatches
from golf.finetune.examples import UNGRADED, Example, ExamplePair


def example_of(token: int, length: int) -> Example:
    return Example("here", (1, *[token] * (length - 1)), (False, False, *[True] * (length - 2)), length)


EXAMPLES = [example_of(10 + number, 3 + number % 5) for number in range(30)]
PAIRS = [ExamplePair(example_of(50 + n, 4), example_of(90 + n, 3 + n % 4)) for n in range(7)]


def test_an_epoch_serves_everything_once_in_another_order_each():
    order = FinetuneBatches(10, 1, 3)
    first, second = order.take(10), order.take(10)
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert order.epoch == 2.0
    assert FinetuneBatches(10, 1, 3).take(10) == first != FinetuneBatches(10, 1, 4).take(10)


def test_a_state_goes_on_exactly_and_only_with_the_same_data():
    batches, copy = ResponseBatches(EXAMPLES, 12, 0), ResponseBatches(EXAMPLES, 12, 0)
    batches.skip(3, 12)
    copy.load_state_dict(batches.state_dict())
    for wanted, found in zip(batches.next(5, 12), copy.next(5, 12), strict=True):
        assert wanted.equal(found)
    with pytest.raises(ValueError, match="the batches' count is"):
        ResponseBatches(EXAMPLES[:9], 12, 0).load_state_dict(batches.state_dict())
    with pytest.raises(ValueError, match="nothing to train on"):
        FinetuneBatches(0, 1, 0)


def test_targets_are_the_next_tokens_and_prompts_do_not_count():
    batches = ResponseBatches(EXAMPLES, 12, 0)
    count = batches.state_dict()["count"]
    inputs_BT, targets_BT = batches.next(count, 12)
    graded = targets_BT[targets_BT != UNGRADED].tolist()
    assert sorted(graded) == sorted(t for e in EXAMPLES for t in e.tokens[2:])
    assert batches.mean_graded == len(graded) / count
    moved = inputs_BT[:, 1:][targets_BT[:, :-1] != UNGRADED]
    assert moved.equal(targets_BT[:, :-1][targets_BT[:, :-1] != UNGRADED])


def test_a_batch_of_pairs_has_the_chosen_first_and_says_which_pair():
    batches = PreferenceBatches(PAIRS, 0, whole=False)
    inputs_BT, targets_BT = batches.next(6, 99)
    assert inputs_BT.size(0) == 6 and targets_BT.size(1) == inputs_BT.size(1) + 1
    for row in range(3):
        number = int(targets_BT[row, 0])
        assert targets_BT[row + 3, 0] == number
        assert int(inputs_BT[row, 1]) == 50 + number and int(inputs_BT[row + 3, 1]) == 90 + number
    assert PreferenceBatches(PAIRS, 0, whole=True).next(2, 20)[0].shape == (2, 20)
    with pytest.raises(ValueError, match="5 rows a micro-batch; expected a multiple of 2"):
        batches.next(5, 20)
