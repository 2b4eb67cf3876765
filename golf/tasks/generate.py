"""Continues prompts, many at a time, with a cache.

Shapes: B batch, N new positions, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from golf.system.log import ProgressBar, RunLog
from golf.tasks.decoder import Decoder
from golf.tasks.models import OpenedModel
from golf.tasks.sampling import SamplingConfig, draw_tokens

BATCH_TOKENS = 16_384
"""Room for tokens in one batch of texts."""


@dataclass(frozen=True)
class Generation:
    """What a model wrote behind a prompt."""

    tokens: list[int]
    """Without the token that stopped it."""
    reason: str
    """stop: a stop token or `is_done`; length: the limit on new tokens, or the end of the context."""


class Generator:
    """Continues prompts with one model."""

    def __init__(self, opened: OpenedModel, log: RunLog):
        self.opened, self.log = opened, log

    def continue_all(
        self,
        prompts: Sequence[list[int]],
        config: SamplingConfig,
        max_new_tokens: int,
        stop_tokens: frozenset[int],
        is_done: Callable[[list[int]], bool],
        seed: int,
        description: str,
    ) -> list[Generation]:
        """One continuation a prompt, in their order; the same for the same seed.

        `is_done` looks at what was written so far after each token. Prompts must be shorter than the context.
        """
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        generator = torch.Generator().manual_seed(seed)
        written: dict[int, Generation] = {}
        with self.log.progress(description, len(prompts), "texts") as bar:
            while order:
                longest = min(self.opened.context, len(prompts[order[-1]]) + max_new_tokens)
                size = max(1, BATCH_TOKENS // longest)
                batch, order = order[:size], order[size:]
                found = self._continue_batch(
                    [prompts[i] for i in batch], config, max_new_tokens, stop_tokens, is_done, generator, bar
                )
                written |= dict(zip(batch, found, strict=True))
        return [written[index] for index in range(len(prompts))]

    def _continue_batch(
        self,
        prompts: list[list[int]],
        config: SamplingConfig,
        max_new_tokens: int,
        stop_tokens: frozenset[int],
        is_done: Callable[[list[int]], bool],
        generator: torch.Generator,
        bar: ProgressBar,
    ) -> list[Generation]:
        """All texts grow in step from the shortest prompt on; longer ones give their own tokens first."""
        capacity, device = self.opened.context, self.opened.device
        decoder = Decoder(self.opened.model, capacity)
        texts = [list(prompt) for prompt in prompts]
        reasons: list[str | None] = [None] * len(texts)
        length = min(map(len, prompts))
        new_BN = torch.tensor([text[:length] for text in texts])
        while True:
            drawn_B = draw_tokens(decoder.read(new_BN.to(device))[:, -1], config, generator).tolist()
            for row, text in enumerate(texts):
                if reasons[row] is None and len(text) == length:
                    reasons[row] = _take_token(
                        text, drawn_B[row], len(prompts[row]), stop_tokens, is_done, max_new_tokens, capacity
                    )
                    bar.advance(reasons[row] is not None)
            if all(reasons):
                break
            # Finished rows go on with anything: nobody reads it.
            column = [text[length] if length < len(text) else 0 for text in texts]
            new_BN = torch.tensor(column)[:, None]
            length += 1
        return [
            Generation(text[len(prompt) :], reason)
            for text, prompt, reason in zip(texts, prompts, reasons, strict=True)
        ]


def _take_token(
    text: list[int],
    token: int,
    num_prompt: int,
    stop_tokens: frozenset[int],
    is_done: Callable[[list[int]], bool],
    max_new_tokens: int,
    capacity: int,
) -> str | None:
    """Adds a token to a text; why it ends there, if it does."""
    if token in stop_tokens:
        return "stop"
    text.append(token)
    if is_done(text[num_prompt:]):
        return "stop"
    if len(text) - num_prompt >= max_new_tokens or len(text) >= capacity:
        return "length"
    return None
