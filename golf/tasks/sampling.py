"""From logits to the next token.

Shapes: B batch, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn."""

    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int = 0
    """Draw among this many likeliest tokens; 0 for all."""
    top_p: float = 0.95
    """Draw among the fewest likeliest tokens that hold this much probability (arXiv:1904.09751)."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"sampling needs temperature >= 0, top_k >= 0 and 0 < top_p <= 1; got {self.temperature}, "
                f"{self.top_k}, {self.top_p}"
            )


GREEDY = SamplingConfig(temperature=0.0)


def token_probabilities(logits_BV: Tensor, config: SamplingConfig) -> Tensor:
    """What each token's chance of being drawn is: temperature, then top-k, then top-p, renormalised."""
    if config.temperature == 0:
        return torch.zeros_like(logits_BV).scatter_(-1, logits_BV.argmax(-1, keepdim=True), 1.0)
    scaled_BV = logits_BV / config.temperature
    if 0 < config.top_k < logits_BV.size(-1):
        least_B1 = scaled_BV.topk(config.top_k).values[..., -1:]
        scaled_BV = scaled_BV.masked_fill(scaled_BV < least_B1, -torch.inf)
    sorted_BV, order_BV = scaled_BV.softmax(-1).sort(descending=True, stable=True)
    # A token stays unless those before it hold enough already: the first always does.
    dropped_BV = sorted_BV.cumsum(-1) - sorted_BV >= config.top_p
    kept_BV = torch.zeros_like(sorted_BV).scatter_(-1, order_BV, sorted_BV.masked_fill(dropped_BV, 0.0))
    return kept_BV / kept_BV.sum(-1, keepdim=True)


def draw_tokens(logits_BV: Tensor, config: SamplingConfig, generator: torch.Generator) -> Tensor:
    """One token a row, int64, shape (B,); drawn on the CPU, so that a seed says the same on every device."""
    probabilities_BV = token_probabilities(logits_BV.float(), config).cpu()
    if config.temperature == 0:
        return probabilities_BV.argmax(-1)
    return torch.multinomial(probabilities_BV, 1, generator=generator).squeeze(-1)
