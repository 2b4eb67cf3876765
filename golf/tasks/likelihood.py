"""Log likelihood of continuations and of whole texts.

Shapes: B batch, T time, L last positions, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from golf.data.vocabulary import Vocabulary
from golf.model.loss import token_nats
from golf.score.scorer import Scoring, score
from golf.score.windows import WindowConfig
from golf.system.log import RunLog
from golf.tasks.files import LongTexts, TaskDataError
from golf.tasks.models import OpenedModel

BATCH_TOKENS = {"cuda": 131_072, "cpu": 8_192}
"""Input tokens of one forward pass, by device type; other devices use the number of the CPU."""


class Request(NamedTuple):
    """A continuation to grade, and the context before it."""

    context: list[int]
    """Starts with BOS."""
    continuation: list[int]

    @property
    def num_inputs(self) -> int:
        """Tokens that the model has to read: all but the last."""
        return len(self.context) + len(self.continuation) - 1


class Likelihood(NamedTuple):
    """The grade of a continuation."""

    nats: float
    """-ln p of all of it."""
    greedy: bool
    """Whether each of its tokens is the likeliest."""
    num_tokens: int


def encode_request(vocabulary: Vocabulary, context: str, continuation: str) -> Request:
    """Tokens of context + continuation, split after as many tokens as the context alone has.

    As in lm-eval, spaces at the end of the context belong to the continuation.
    """
    kept = context.rstrip()
    whole = vocabulary.encode_text(kept + context[len(kept) :] + continuation)
    split = min(len(vocabulary.encode_text(kept)), len(whole) - 1)
    if split < 0:
        raise TaskDataError(f"continuation {continuation!r} after {context!r:.40} has no tokens")
    return Request([vocabulary.bos_id, *whole[:split]], whole[split:])


def fit_request(request: Request, context: int, long: LongTexts, place: str) -> Request | None:
    """The request within `context` input tokens: unchanged, without its beginning, or None to skip it.

    As in lm-eval, the beginning is cut off, of a continuation longer than the context its own, too; one token
    of context always stays. TaskDataError for a long request if `long` is "error".
    """
    length = request.num_inputs
    if length <= context:
        return request
    if long == "error":
        raise TaskDataError(
            f"{place}: {length} tokens; the model reads {context}. --long truncate drops their beginning, "
            "--long skip drops the item, --context N lets the model read more than it was trained on"
        )
    if long == "skip":
        return None
    kept = [*request.context, *request.continuation][-(context + 1) :]
    num_context = max(1, len(kept) - len(request.continuation))
    return Request(kept[:num_context], kept[num_context:])


def batches_by_length(lengths: Sequence[int], device: torch.device) -> Iterator[list[int]]:
    """Numbers of texts in batches of similar length, the longest first, for one forward pass each."""
    max_tokens = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    while order:
        size = max(1, max_tokens // lengths[order[0]])
        yield order[:size]
        order = order[size:]


@torch.no_grad()
def likelihoods(
    opened: OpenedModel, requests: Sequence[Request], log: RunLog, description: str
) -> list[Likelihood]:
    """The grade of every request, in order; requests of similar length share a forward pass."""
    lengths = [request.num_inputs + 1 for request in requests]
    found: dict[int, Likelihood] = {}
    with log.progress(description, len(requests), "texts") as bar:
        for batch in batches_by_length(lengths, opened.device):
            graded = _grade_requests(opened, [requests[i] for i in batch])
            found |= dict(zip(batch, graded, strict=True))
            bar.advance(len(batch))
    return [found[index] for index in range(len(requests))]


def _grade_requests(opened: OpenedModel, requests: list[Request]) -> list[Likelihood]:
    """Grades requests in one forward pass; padding follows the texts, where no graded position sees it."""
    texts = [request.context + request.continuation for request in requests]
    length = max(map(len, texts))
    tokens_BT = torch.tensor([text + [0] * (length - len(text)) for text in texts], device=opened.device)
    num_last = length - min(len(request.context) for request in requests)
    logits_BLV = opened.model(tokens_BT[:, :-1], num_last)
    targets_BL = tokens_BT[:, -num_last:]
    nats_BL = token_nats(logits_BLV, targets_BL).double().cpu()
    greedy_BL = (logits_BLV.argmax(-1) == targets_BL).cpu()
    graded = []
    for row, request in enumerate(requests):
        start = len(request.context) - (length - num_last)
        span = slice(start, start + len(request.continuation))
        nats, greedy = float(nats_BL[row, span].sum()), bool(greedy_BL[row, span].all())
        graded.append(Likelihood(nats, greedy, len(request.continuation)))
    return graded


def text_nats(opened: OpenedModel, text: str, stride: int | None) -> tuple[float, int]:
    """-ln p of a text after BOS, and its number of tokens, by the windows of scoring.

    They move by `stride`; with None they are disjoint except the last one, which also reads a full context.
    """
    vocabulary = opened.vocabulary
    tokens = np.array([vocabulary.bos_id, *vocabulary.encode_text(text)], dtype=np.uint16)
    if len(tokens) < 2:
        return 0.0, 0
    context = min(opened.context, len(tokens) - 1)
    windows = WindowConfig(context=context, stride=min(stride or context, context))
    result = score(Scoring(opened.model, tokens, vocabulary, windows))
    return result.tally.nats, result.tally.num_tokens
