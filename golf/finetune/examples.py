"""Conversations as tokens: the chat template, which tokens are graded, and how a long conversation is cut.

The template has four marks around the turns of a conversation, in ids that no text produces. UTF-8 never uses
the bytes 0xC0, 0xC1 and 0xF5 to 0xFF, so a tokenizer with byte fallback has 13 unused pieces. CaseOps marker
fusion (openai/parameter-golf #2109) uses some of them for marks of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from golf.data.shards import read_shard
from golf.data.vocabulary import Vocabulary
from golf.finetune.dialogues import Conversation, DialogueError, Preference, Turn
from golf.tasks.files import LongTexts

TEMPLATE_BYTES = {"system": 0xC0, "user": 0xC1, "assistant": 0xF5, "end": 0xF6}
"""The byte piece of each mark."""
MAX_CHECKED_TOKENS = 10_000_000
"""Tokens of a shard that are searched for the template's ids."""


class TemplateError(ValueError):
    """A tokenizer has no unused ids for the chat template, or a text uses them."""


@dataclass(frozen=True)
class ChatTemplate:
    """Token ids of the marks: three that open a turn, one that ends it."""

    system: int
    user: int
    assistant: int
    end: int

    @property
    def ids(self) -> frozenset[int]:
        """All four ids."""
        return frozenset(asdict(self).values())

    def opening(self, role: str) -> int:
        """The mark that opens a turn of this role; TemplateError for an unknown role."""
        if role not in ("system", "user", "assistant"):
            raise TemplateError(f"role is {role!r}; expected system, user or assistant")
        return asdict(self)[role]


def template_of(vocabulary: Vocabulary, name: str) -> ChatTemplate:
    """The template in a vocabulary's byte pieces; TemplateError if one of them is missing."""
    ids = {vocabulary.piece(token): token for token in range(vocabulary.size)}
    marks = {}
    for role, byte in TEMPLATE_BYTES.items():
        piece = f"<0x{byte:02X}>"
        if piece not in ids:
            raise TemplateError(
                f"{name}: has no piece {piece} for the template's {role} mark: it has no byte fallback, or "
                "marker fusion uses the id"
            )
        marks[role] = ids[piece]
    return ChatTemplate(**marks)


def stored_template(header: dict[str, Any]) -> ChatTemplate | None:
    """The template of a fine-tuned model; None for another model."""
    marks = header.get("chat")
    return None if marks is None else ChatTemplate(**marks)


def require_free(template: ChatTemplate, shards: Iterable[Path]) -> None:
    """TemplateError if the training text uses an id of the template, with another meaning."""
    for path in shards:
        tokens = read_shard(path)[:MAX_CHECKED_TOKENS]
        used = np.isin(tokens, sorted(template.ids))
        if used.any():
            place = int(used.argmax())
            raise TemplateError(
                f"{path}: token {place} is {tokens[place]}, an id of the chat template, which no text "
                "produces: the shards use it for other marks (CaseOps marker fusion), so the two clash"
            )


UNGRADED = -100
"""The target of an ungraded position: torch's cross-entropy gives it no loss and no gradient."""


@dataclass(frozen=True)
class Example:
    """A conversation as tokens, BOS first."""

    place: str
    tokens: tuple[int, ...]
    is_graded: tuple[bool, ...]
    """For each token, whether its prediction is graded: the assistant's text and the mark that ends it."""
    graded_bytes: int
    """UTF-8 bytes of the assistant's text."""

    @property
    def num_graded(self) -> int:
        """Number of graded tokens."""
        return sum(self.is_graded)


class ExamplePair(NamedTuple):
    """A preference as two examples."""

    chosen: Example
    rejected: Example


def prompt_tokens(vocabulary: Vocabulary, template: ChatTemplate, turns: Sequence[Turn]) -> list[int]:
    """BOS and the turns, without the mark that opens the assistant's answer."""
    tokens = [vocabulary.bos_id]
    for turn in turns:
        tokens += [template.opening(turn.role), *vocabulary.encode_text(turn.text), template.end]
    return tokens


def encode_turns(
    vocabulary: Vocabulary, template: ChatTemplate, turns: Sequence[Turn], first_graded: int, place: str
) -> Example:
    """The example of some turns; those of the assistant from turn `first_graded` on are graded."""
    tokens, is_graded, graded_bytes = [vocabulary.bos_id], [False], 0
    for number, turn in enumerate(turns):
        text = vocabulary.encode_text(turn.text)
        counts = turn.role == "assistant" and number >= first_graded
        if counts and not text:
            raise DialogueError(f"an answer has no tokens ({turn.text!r:.40})")
        tokens += [template.opening(turn.role), *text, template.end]
        is_graded += [False, *[counts] * (len(text) + 1)]
        graded_bytes += counts * len(turn.text.encode("utf-8", "replace"))
    return Example(place, tuple(tokens), tuple(is_graded), graded_bytes)


def encode_conversation(vocabulary: Vocabulary, template: ChatTemplate, item: Conversation) -> Example:
    """A conversation with all answers graded."""
    return encode_turns(vocabulary, template, item.turns, 0, item.place)


def encode_preference(vocabulary: Vocabulary, template: ChatTemplate, item: Preference) -> ExamplePair:
    """The prompt with either answer, only the answer graded; DialogueError if their tokens are the same."""
    chosen, rejected = (
        encode_turns(
            vocabulary, template, (*item.prompt, Turn("assistant", text)), len(item.prompt), item.place
        )
        for text in (item.chosen, item.rejected)
    )
    if chosen.tokens == rejected.tokens:
        raise DialogueError("chosen and rejected have the same tokens")
    return ExamplePair(chosen, rejected)


def fit_example(example: Example, context: int, long: LongTexts) -> Example | None:
    """The example within `context` predictions: unchanged, without its end, or None to skip it.

    DialogueError for a long example if `long` is "error". One without graded tokens after the cut is skipped.
    """
    if len(example.tokens) - 1 <= context:
        return example
    if long == "error":
        raise DialogueError(
            f"{example.place}: the conversation is {len(example.tokens)} tokens; the model reads {context}. "
            "--long truncate drops its end, --long skip skips it"
        )
    is_graded = example.is_graded[: context + 1]
    if long == "skip" or not any(is_graded):
        return None
    share = sum(is_graded) / example.num_graded
    tokens = example.tokens[: context + 1]
    return Example(example.place, tokens, is_graded, round(example.graded_bytes * share))


def fit_pair(pair: ExamplePair, context: int, long: LongTexts) -> ExamplePair | None:
    """Both sides within `context`; None if one is skipped, or if they are equal after the cut."""
    chosen, rejected = (fit_example(example, context, long) for example in pair)
    if chosen is None or rejected is None or chosen.tokens == rejected.tokens:
        return None
    return ExamplePair(chosen, rejected)
