"""The chat template: four marks around the turns of a conversation, in ids that no text can produce.

UTF-8 never uses the bytes 0xC0, 0xC1 and 0xF5 to 0xFF, so a tokenizer with byte fallback has 13 pieces
that stand for nothing. CaseOps marker fusion (openai/parameter-golf #2109) puts marks of its own there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golf.data.shards import read_shard
from golf.data.vocabulary import Vocabulary

TEMPLATE_BYTES = {"system": 0xC0, "user": 0xC1, "assistant": 0xF5, "end": 0xF6}
"""Which byte piece each mark takes."""
LOOK_TOKENS = 10_000_000
"""Tokens of a shard that are searched for the template's ids."""


class TemplateError(ValueError):
    """A tokenizer or a text leaves no room for the chat template."""


@dataclass(frozen=True)
class ChatTemplate:
    """Token ids of the marks: three that open a turn, one that ends it."""

    system: int
    user: int
    assistant: int
    end: int

    @property
    def ids(self) -> frozenset[int]:
        """All four."""
        return frozenset(asdict(self).values())

    def opening(self, role: str) -> int:
        """The mark that opens a turn of this role; TemplateError for a role that is none."""
        if role not in ("system", "user", "assistant"):
            raise TemplateError(f"role is {role!r}; expected system, user or assistant")
        return asdict(self)[role]


def template_of(vocabulary: Vocabulary, name: str) -> ChatTemplate:
    """The template in a vocabulary's byte pieces; TemplateError where one of them is not there or taken."""
    ids = {vocabulary.piece(token): token for token in range(vocabulary.size)}
    marks = {}
    for role, byte in TEMPLATE_BYTES.items():
        piece = f"<0x{byte:02X}>"
        if piece not in ids:
            raise TemplateError(
                f"{name}: has no piece {piece} for the template's {role} mark: it has no byte fallback, or "
                "marker fusion has taken the id"
            )
        marks[role] = ids[piece]
    return ChatTemplate(**marks)


def stored_template(header: dict[str, Any]) -> ChatTemplate | None:
    """The template that a model was fine-tuned with; None for one that was not."""
    marks = header.get("chat")
    return None if marks is None else ChatTemplate(**marks)


def require_free(template: ChatTemplate, shards: Iterable[Path]) -> None:
    """TemplateError where the training text uses an id of the template: there it means something else."""
    for path in shards:
        tokens = read_shard(path)[:LOOK_TOKENS]
        used = np.isin(tokens, sorted(template.ids))
        if used.any():
            place = int(used.argmax())
            raise TemplateError(
                f"{path}: token {place} is {tokens[place]}, an id of the chat template, which no text "
                "produces: the shards use it for marks of their own (CaseOps marker fusion); the two clash"
            )


def plain_text(vocabulary: Vocabulary, tokens: Sequence[int], template: ChatTemplate | None) -> str:
    """The text of some tokens without the template's marks."""
    marks = frozenset() if template is None else template.ids
    return vocabulary.decode([token for token in tokens if token not in marks])
