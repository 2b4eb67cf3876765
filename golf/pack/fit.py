"""The one size knob: the price of a bit, found so that the artifact uses its bytes and never passes them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

BAND_SHARE = 5000 / 16_000_000
MIN_BAND_BYTES = 64
"""An artifact lands this close below its limit: the share, or these bytes where that is less."""
_MOST_TRIES = 12
_BISECTIONS = 60


@dataclass(frozen=True)
class Fit:
    """The artifact that was chosen, and how the search for it went."""

    artifact: bytes
    price: float
    """Nats a bit."""
    tries: int
    outcome: Literal["finest", "band", "near"]
    """finest: nothing finer is of use; band: as close to the limit as asked; near: the best of all tries."""


@dataclass(frozen=True)
class _Try:
    log2_price: float
    size: int
    ratio: float
    """Real over forecast size."""


def fit_price(
    encode: Callable[[float], bytes],
    forecast: Callable[[float], float],
    finest: float,
    coarsest: float,
    limit_bytes: int,
) -> Fit | None:
    """The lowest price from `finest` to `coarsest` whose artifact fits; None if none does.

    `encode` gives the artifact at a price; `forecast` guesses its bytes, falls with the price, and is
    corrected by each artifact made.
    """
    band_bytes = max(MIN_BAND_BYTES, int(BAND_SHARE * limit_bytes))
    aim = limit_bytes - band_bytes / 2
    ends = math.log2(finest), math.log2(coarsest)
    best: Fit | None = None
    tries: list[_Try] = []
    for attempt in range(1, _MOST_TRIES + 1):
        log2_price = _solve(forecast, tries, aim, *ends)
        artifact = encode(2.0**log2_price)
        size = len(artifact)
        tries.append(_Try(log2_price, size, size / forecast(2.0**log2_price)))
        if size <= limit_bytes and (best is None or size > len(best.artifact)):
            best = Fit(artifact, 2.0**log2_price, attempt, "near")
        if size <= limit_bytes and log2_price == ends[0]:
            return Fit(artifact, finest, attempt, "finest")
        if limit_bytes - band_bytes <= size <= limit_bytes:
            return Fit(artifact, 2.0**log2_price, attempt, "band")
        if size > limit_bytes and log2_price == ends[1]:
            break
    return best


def _solve(
    forecast: Callable[[float], float], tries: list[_Try], aim: float, finest: float, coarsest: float
) -> float:
    """log2 of the price whose corrected forecast meets the aim, between the nearest tries on either side."""
    too_fine = [attempt.log2_price for attempt in tries if attempt.size > aim]
    too_coarse = [attempt.log2_price for attempt in tries if attempt.size <= aim]
    low, high = max(too_fine, default=finest), min(too_coarse, default=coarsest)
    if not too_fine and _corrected(forecast, tries, low) <= aim:
        return low
    if not too_coarse and _corrected(forecast, tries, high) > aim:
        return high
    first, last = low, high
    for _ in range(_BISECTIONS):
        middle = (first + last) / 2
        if _corrected(forecast, tries, middle) > aim:
            first = middle
        else:
            last = middle
    # Never a try twice: where size is not quite monotonous the bracket is searched from its inside.
    return last if low < last < high else (low + high) / 2


def _corrected(forecast: Callable[[float], float], tries: list[_Try], log2_price: float) -> float:
    """The forecast times its ratio to real sizes, which is drawn as a line through the two nearest tries."""
    size = forecast(2.0**log2_price)
    nearest = sorted(tries, key=lambda attempt: abs(attempt.log2_price - log2_price))[:2]
    if not nearest:
        return size
    if len(nearest) == 1:
        return size * nearest[0].ratio
    one, other = nearest
    slope = (other.ratio - one.ratio) / (other.log2_price - one.log2_price)
    return size * (one.ratio + slope * (log2_price - one.log2_price))
