"""What counts in a conversation, and how conversations share sequences."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.finetune.batches import fill_sequences, pack_examples
from golf.finetune.dialogues import Conversation, DialogueError, Preference, Turn
from golf.finetune.examples import (
    Example,
    encode_conversation,
    encode_preference,
    fit_example,
    fit_pair,
    prompt_tokens,
)

TURNS = (Turn("system", "the"), Turn("user", "of and"), Turn("assistant", "to a"), Turn("user", "in"))


def example_of(length: int) -> Example:
    return Example("here", (1, *[9] * (length - 1)), (False, *[True] * (length - 1)), length)


def test_the_answers_and_the_marks_that_end_them_count(vocabulary, template):
    item = Conversation("here", (*TURNS, Turn("assistant", "is")))
    example = encode_conversation(vocabulary, template, item)
    graded = [token for token, counts in zip(example.tokens, example.is_graded, strict=True) if counts]
    answers = [*vocabulary.encode_text("to a"), template.end, *vocabulary.encode_text("is"), template.end]
    assert graded == answers
    assert example.graded_bytes == len("to a") + len("is")
    assert list(example.tokens) == [
        *prompt_tokens(vocabulary, template, TURNS),
        template.assistant,
        *vocabulary.encode_text("is"),
        template.end,
    ]


def test_of_a_pair_only_the_last_answer_counts(vocabulary, template):
    prompt = (*TURNS[1:3], Turn("user", "in"))
    pair = encode_preference(vocabulary, template, Preference("here", prompt, "is it", "was"))
    for example, text in zip(pair, ("is it", "was"), strict=True):
        assert example.num_graded == len(vocabulary.encode_text(text)) + 1


def test_answers_that_become_the_same_or_no_tokens_are_refused(vocabulary, template):
    with pytest.raises(DialogueError, match="chosen and rejected have the same tokens"):
        encode_preference(vocabulary, template, Preference("place 3", TURNS[1:2], "it\u00a0is", "it is"))
    with pytest.raises(DialogueError, match="has no tokens"):
        encode_conversation(vocabulary, template, Conversation("here", (Turn("assistant", "\u200b"),)))


def test_a_long_conversation_is_refused_cut_or_left_out():
    example = example_of(10)
    assert fit_example(example, 9, "error") is example
    with pytest.raises(DialogueError, match="here: the conversation is 10 tokens; the model reads 8"):
        fit_example(example, 8, "error")
    assert fit_example(example, 8, "skip") is None
    cut = fit_example(example, 5, "truncate")
    assert cut is not None and cut.tokens == example.tokens[:6] and cut.num_graded == 5
    unanswered = Example("here", (1, 2, 3, 4), (False, False, False, True), 1)
    assert fit_example(unanswered, 2, "truncate") is None


def test_a_pair_that_nothing_tells_apart_any_more_is_left_out(vocabulary, template):
    pair = encode_preference(vocabulary, template, Preference("here", TURNS[1:2], "the is", "the was"))
    assert fit_pair(pair, 100, "error") == pair
    assert fit_pair(pair, len(pair.chosen.tokens) - 4, "truncate") is None


@given(sizes=st.lists(st.integers(2, 20), min_size=1, max_size=40))
def test_every_conversation_is_packed_once_and_whole(sizes):
    examples = [example_of(size) for size in sizes]
    sequences = pack_examples(examples, 20)
    assert sorted(number for numbers in sequences for number in numbers) == list(range(len(sizes)))
    assert all(sum(sizes[number] for number in numbers) <= 20 for numbers in sequences)
    half_full = sum(sum(sizes[number] for number in numbers) <= 10 for numbers in sequences)
    assert half_full <= 1


def test_sequences_hold_the_tokens_and_zeros_at_the_end():
    examples = [example_of(3), example_of(2)]
    tokens_ST, graded_ST = fill_sequences(examples, [[0, 1], [1]], 6)
    assert tokens_ST.tolist() == [[1, 9, 9, 1, 9, 0], [1, 9, 0, 0, 0, 0]]
    assert graded_ST.tolist() == [[0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0]]
    with pytest.raises(DialogueError, match="here: 3 tokens; a sequence has 2"):
        pack_examples(examples, 2)
