"""Sums of nats, tokens and bytes, from which every score is computed; nats become bits here alone."""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

NATS_PER_BIT = math.log(2.0)

Nats = TypeVar("Nats", float, np.ndarray)


def bits_per_byte(nats: Nats, num_bytes: Nats | float) -> Nats:
    """Sums of nats over sums of bytes, as bits per byte; elementwise for arrays."""
    return nats / NATS_PER_BIT / num_bytes


@dataclass(frozen=True)
class Tally:
    """Sums over graded tokens; tallies of disjoint tokens add with `+`. JSON keeps these three numbers."""

    nats: float
    """Sum of -ln p(token), in float64."""
    num_tokens: int
    num_bytes: int
    """Bytes of text that these tokens stand for."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.nats + other.nats, self.num_tokens + other.num_tokens, self.num_bytes + other.num_bytes
        )

    @property
    def bits_per_byte(self) -> float:
        """The score; ValueError if the tokens stand for no text."""
        if self.num_bytes <= 0:
            raise ValueError(f"{self.num_tokens:,} tokens stand for {self.num_bytes} bytes; nothing to score")
        return bits_per_byte(self.nats, self.num_bytes)

    @property
    def nats_per_token(self) -> float:
        """Mean loss of a token; ValueError if there is none."""
        if self.num_tokens <= 0:
            raise ValueError("no token was graded; a mean needs at least one")
        return self.nats / self.num_tokens
