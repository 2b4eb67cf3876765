"""How likely a model finds a continuation.

Shapes: B batch, T time, L last positions, V vocabulary.
"""

from collections.abc import Sequence
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
"""Input tokens of one forward pass; as on a CPU elsewhere."""


class Request(NamedTuple):
    """A continuation to grade, behind its context."""

    context: list[int]
    """With BOS at its start."""
    continuation: list[int]


class Likelihood(NamedTuple):
    """The grade of a continuation."""

    nats: float
    """-ln p of all of it."""
    greedy: bool
    """Whether each of its tokens is the likeliest."""
    num_tokens: int


def encode_request(vocabulary: Vocabulary, context: str, continuation: str) -> Request:
    """Context and continuation as the tokens of the whole, split where the context's own tokens end.

    As lm-eval splits them: spaces at the end of the context belong to the continuation.
    """
    kept = context.rstrip()
    whole = vocabulary.encode(kept + context[len(kept) :] + continuation)
    split = min(len(vocabulary.encode(kept)), len(whole) - 1)
    if split < 0:
        raise TaskDataError(f"continuation {continuation!r} behind {context!r:.40} has no tokens")
    return Request([vocabulary.bos_id, *whole[:split]], whole[split:])


def fit_request(request: Request, context: int, long: LongTexts, place: str) -> Request | None:
    """The request within `context` input tokens: as it is, cut at its beginning, or None to leave it out."""
    length = len(request.context) + len(request.continuation) - 1
    if length <= context:
        return request
    if long == "error":
        raise TaskDataError(
            f"{place}: {length} tokens; the model reads {context}. --long truncate drops their beginning, "
            "--long skip the item, --context N lets the model read more than it was trained on"
        )
    if long == "skip":
        return None
    if len(request.continuation) > context:
        raise TaskDataError(
            f"{place}: {len(request.continuation)} tokens to grade; the model reads {context}"
        )
    return Request(request.context[length - context :], request.continuation)


@torch.no_grad()
def likelihoods(
    opened: OpenedModel, requests: Sequence[Request], log: RunLog, description: str
) -> list[Likelihood]:
    """Grades every request, in their order; short texts share a forward pass with others of their length."""
    order = sorted(range(len(requests)), key=lambda i: -len(requests[i].context + requests[i].continuation))
    room = BATCH_TOKENS.get(opened.device.type, BATCH_TOKENS["cpu"])
    found: dict[int, Likelihood] = {}
    with log.progress(description, len(requests), "texts") as bar:
        while order:
            longest = len(requests[order[0]].context) + len(requests[order[0]].continuation)
            size = max(1, room // longest)
            batch, order = order[:size], order[size:]
            graded = _grade_requests(opened, [requests[i] for i in batch])
            found |= dict(zip(batch, graded, strict=True))
            bar.advance(len(batch))
    return [found[index] for index in range(len(requests))]


def _grade_requests(opened: OpenedModel, requests: list[Request]) -> list[Likelihood]:
    """Texts are filled up behind their end, which no graded position sees."""
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
    """-ln p of a text behind BOS, and its tokens, graded by the project's own windows.

    They move by `stride`; with None they are disjoint but for the last, which reads a full context, too.
    """
    vocabulary = opened.vocabulary
    tokens = np.array([vocabulary.bos_id, *vocabulary.encode(text)], dtype=np.uint16)
    if len(tokens) < 2:
        return 0.0, 0
    context = min(opened.context, len(tokens) - 1)
    windows = WindowConfig(context=context, stride=min(stride or context, context))
    result = score(Scoring(opened.model, tokens, vocabulary, windows))
    return result.tally.nats, result.tally.num_tokens
