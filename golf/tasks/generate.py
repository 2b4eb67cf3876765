"""Generation: draws tokens from logits, and continues many prompts at a time with a cache.

Shapes: B batch, N new positions, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from golf.model.decoder import Decoder
from golf.system.log import ProgressBar, RunLog
from golf.tasks.models import OpenedModel

BATCH_TOKENS = 16_384
"""Largest number of tokens in one batch of texts."""


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is sampled."""

    temperature: float = 0.8
    """Divides the logits; 0 is greedy decoding."""
    top_k: int = 0
    """Sample from this many likeliest tokens; 0 for all."""
    top_p: float = 0.95
    """Sample from the fewest likeliest tokens with this total probability (arXiv:1904.09751)."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"sampling needs temperature >= 0, top_k >= 0 and 0 < top_p <= 1; got {self.temperature}, "
                f"{self.top_k}, {self.top_p}"
            )


GREEDY = SamplingConfig(temperature=0.0)


def token_probabilities(logits_BV: Tensor, config: SamplingConfig) -> Tensor:
    """Sampling probabilities (B, V): temperature, then top-k, then top-p, renormalized."""
    if config.temperature == 0:
        return torch.zeros_like(logits_BV).scatter_(-1, logits_BV.argmax(-1, keepdim=True), 1.0)
    scaled_BV = logits_BV / config.temperature
    if 0 < config.top_k < logits_BV.size(-1):
        least_B1 = scaled_BV.topk(config.top_k).values[..., -1:]
        scaled_BV = scaled_BV.masked_fill(scaled_BV < least_B1, -torch.inf)
    sorted_BV, order_BV = scaled_BV.softmax(-1).sort(descending=True, stable=True)
    # A token is kept unless the likelier ones already reach top_p: the first always is.
    dropped_BV = sorted_BV.cumsum(-1) - sorted_BV >= config.top_p
    kept_BV = torch.zeros_like(sorted_BV).scatter_(-1, order_BV, sorted_BV.masked_fill(dropped_BV, 0.0))
    return kept_BV / kept_BV.sum(-1, keepdim=True)


def draw_tokens(logits_BV: Tensor, config: SamplingConfig, generator: torch.Generator) -> Tensor:
    """One token a row, int64 (B,); sampled on the CPU, so that a seed gives the same on every device."""
    probabilities_BV = token_probabilities(logits_BV.float(), config).cpu()
    if config.temperature == 0:
        return probabilities_BV.argmax(-1)
    return torch.multinomial(probabilities_BV, 1, generator=generator).squeeze(-1)


@dataclass(frozen=True)
class Generation:
    """The continuation of a prompt."""

    tokens: list[int]
    """Without the stop token."""
    reason: str
    """stop: a stop token, or `is_done`; length: the limit on new tokens or on the context."""


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
        """One continuation for each prompt, in order; the same seed gives the same texts.

        `is_done` gets all new tokens of a text after each token. Prompts must be shorter than the context.
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
        """Extends all texts token by token from the shortest prompt on; longer prompts feed theirs first."""
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
            # Finished rows are fed any token: their output is ignored.
            column = [text[length] if length < len(text) else 0 for text in texts]
            new_BN = torch.tensor(column)[:, None]
            length += 1
        return [
            Generation(text[len(prompt) :], reason or "length")
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
    """Adds a token to a text; the reason why the text ends, or None."""
    if token in stop_tokens:
        return "stop"
    text.append(token)
    if is_done(text[num_prompt:]):
        return "stop"
    if len(text) - num_prompt >= max_new_tokens or len(text) >= capacity:
        return "length"
    return None
