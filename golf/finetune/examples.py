"""Conversations as tokens of which the assistant's count, and many of them in one sequence.

Shapes: S sequences, T tokens of a sequence.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from golf.data.vocabulary import Vocabulary
from golf.finetune.dialogues import Conversation, DialogueError, Preference, Turn
from golf.finetune.template import ChatTemplate
from golf.tasks.files import LongTexts

UNGRADED = -100
"""The target of a position that does not count: torch's cross-entropy gives it no loss and no gradient."""


@dataclass(frozen=True)
class Example:
    """A conversation as tokens, BOS first."""

    place: str
    tokens: tuple[int, ...]
    is_graded: tuple[bool, ...]
    """Of each token, whether its prediction counts: the assistant's text and the mark that ends it."""
    graded_bytes: int
    """UTF-8 bytes of the assistant's text."""

    @property
    def num_graded(self) -> int:
        """Tokens whose prediction counts."""
        return sum(self.is_graded)


class ExamplePair(NamedTuple):
    """A preference as two examples."""

    chosen: Example
    rejected: Example


def prompt_tokens(vocabulary: Vocabulary, template: ChatTemplate, turns: Sequence[Turn]) -> list[int]:
    """BOS and the turns: what the assistant's opening mark follows when it is to speak."""
    tokens = [vocabulary.bos_id]
    for turn in turns:
        tokens += [template.opening(turn.role), *vocabulary.encode(turn.text), template.end]
    return tokens


def encode_turns(
    vocabulary: Vocabulary, template: ChatTemplate, turns: Sequence[Turn], first_graded: int, place: str
) -> Example:
    """The example of some turns; the assistant's from turn `first_graded` on count."""
    tokens, is_graded, graded_bytes = [vocabulary.bos_id], [False], 0
    for number, turn in enumerate(turns):
        text = vocabulary.encode(turn.text)
        counts = turn.role == "assistant" and number >= first_graded
        if counts and not text:
            raise DialogueError(f"{place}: the answer {turn.text!r:.40} has no tokens")
        tokens += [template.opening(turn.role), *text, template.end]
        is_graded += [False, *[counts] * (len(text) + 1)]
        graded_bytes += counts * len(turn.text.encode("utf-8", "replace"))
    return Example(place, tuple(tokens), tuple(is_graded), graded_bytes)


def encode_conversation(vocabulary: Vocabulary, template: ChatTemplate, item: Conversation) -> Example:
    """A conversation whose every answer counts."""
    return encode_turns(vocabulary, template, item.turns, 0, item.place)


def encode_preference(vocabulary: Vocabulary, template: ChatTemplate, item: Preference) -> ExamplePair:
    """The prompt with either answer, which alone counts; DialogueError if their tokens are the same."""
    chosen, rejected = (
        encode_turns(
            vocabulary, template, (*item.prompt, Turn("assistant", text)), len(item.prompt), item.place
        )
        for text in (item.chosen, item.rejected)
    )
    if chosen.tokens == rejected.tokens:
        raise DialogueError(f"{item.place}: chosen and rejected have the same tokens")
    return ExamplePair(chosen, rejected)


def fit_example(example: Example, context: int, long: LongTexts) -> Example | None:
    """The example within `context` predictions: as it is, without its end, or None to leave it out.

    DialogueError for `error`, and where nothing that counts would be left.
    """
    if len(example.tokens) - 1 <= context:
        return example
    if long == "error":
        raise DialogueError(
            f"{example.place}: the conversation is {len(example.tokens)} tokens; the model reads {context}. "
            "--long truncate drops its end, --long skip leaves it out"
        )
    is_graded = example.is_graded[: context + 1]
    if long == "skip" or not any(is_graded):
        return None
    share = sum(is_graded) / example.num_graded
    tokens = example.tokens[: context + 1]
    return Example(example.place, tokens, is_graded, round(example.graded_bytes * share))


def fit_pair(pair: ExamplePair, context: int, long: LongTexts) -> ExamplePair | None:
    """Both sides within `context`; None where one does not fit, or nothing tells them apart any more."""
    chosen, rejected = (fit_example(example, context, long) for example in pair)
    if chosen is None or rejected is None or chosen.tokens == rejected.tokens:
        return None
    return ExamplePair(chosen, rejected)


def pack_examples(examples: Sequence[Example], length: int) -> list[list[int]]:
    """Numbers of the examples of each sequence of at most `length` tokens: best fit, longest first.

    Every example is in exactly one, whole. Neighbours see each other, as documents in pretraining do.
    """
    free: list[tuple[int, int]] = []
    sequences: list[list[int]] = []
    order = sorted(range(len(examples)), key=lambda number: (-len(examples[number].tokens), number))
    for number in order:
        size = len(examples[number].tokens)
        if size > length:
            raise DialogueError(f"{examples[number].place}: {size} tokens; a sequence has {length}")
        found = bisect_left(free, (size, -1))
        if found == len(free):
            sequences.append([])
            free.insert(found, (length, len(sequences) - 1))
        room, sequence = free.pop(found)
        sequences[sequence].append(number)
        insort(free, (room - size, sequence))
    return sequences


def fill_sequences(
    examples: Sequence[Example], sequences: Sequence[Sequence[int]], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and whether each counts, both (S, length); what is left at the end is filled with zeros."""
    tokens_ST = np.zeros((len(sequences), length), dtype=np.int64)
    graded_ST = np.zeros((len(sequences), length), dtype=bool)
    for row, numbers in enumerate(sequences):
        start = 0
        for number in numbers:
            end = start + len(examples[number].tokens)
            tokens_ST[row, start:end] = examples[number].tokens
            graded_ST[row, start:end] = examples[number].is_graded
            start = end
    return tokens_ST, graded_ST
