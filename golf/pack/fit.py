"""The byte limit of an entry, and the search for the lambda whose artifact uses it without passing it."""

import math
from collections.abc import Callable

from golf.data.reference import LIMIT_BYTES
from golf.pack.layout import Fitted

BAND_SHARE = 5000 / 16_000_000
MIN_BAND_BYTES = 64
"""The search stops at an artifact this close below its limit: the share, but at least these bytes."""
_MAX_TRIES = 12
_BISECTIONS = 60


class BudgetError(ValueError):
    """The weights do not fit into the bytes available for them."""


def bytes_for_artifact(code_bytes: int, limit_bytes: int = LIMIT_BYTES) -> int:
    """The limit minus the code's bytes; raises BudgetError if that is not positive."""
    if code_bytes >= limit_bytes:
        raise BudgetError(f"the code alone is {code_bytes:,} bytes; the limit is {limit_bytes:,}")
    return limit_bytes - code_bytes


def fit_lambda(
    encode: Callable[[float], bytes],
    forecast: Callable[[float], float],
    finest: float,
    coarsest: float,
    limit_bytes: int,
) -> Fitted:
    """The artifact of the smallest lambda from `finest` to `coarsest` that fits; BudgetError if none does.

    `encode` returns the artifact at a lambda. `forecast` returns an estimate of its size in bytes, which
    falls with lambda; the search corrects it by the size of every artifact made, so that a few suffice.
    The report's `fit` is "finest" if the smallest lambda fits, "band" for a size within the band below the
    limit, else "near".
    """
    band_bytes = max(MIN_BAND_BYTES, int(BAND_SHARE * limit_bytes))
    ends = math.log2(finest), math.log2(coarsest)
    best: Fitted = b"", {}
    sizes: dict[float, int] = {}
    for attempt in range(1, _MAX_TRIES + 1):
        log2_lambda = _next_try(forecast, sizes, limit_bytes - band_bytes / 2, *ends)
        artifact = encode(2.0**log2_lambda)
        size = sizes[log2_lambda] = len(artifact)
        fits, is_finest = size <= limit_bytes, log2_lambda == ends[0]
        if fits and (is_finest or size > len(best[0])):
            outcome = "finest" if is_finest else "band" if size >= limit_bytes - band_bytes else "near"
            rate_lambda = finest if is_finest else 2.0**log2_lambda
            best = artifact, {"lambda_nats_per_bit": rate_lambda, "fit": outcome, "fit_tries": attempt}
            if outcome != "near":
                break
        elif not fits and log2_lambda == ends[1]:
            break
    if not best[0]:
        raise BudgetError(f"no lambda brings the artifact below {limit_bytes:,} bytes")
    return best


def _next_try(
    forecast: Callable[[float], float], sizes: dict[float, int], target: float, finest: float, coarsest: float
) -> float:
    """log2 of the lambda whose corrected forecast equals the target, inside the bracket of earlier tries.

    `sizes` are the real sizes found so far, by log2 of their lambda.
    """

    # The forecast times its ratio to real sizes, linear in log2 lambda through the two nearest tries.
    def corrected(log2_lambda: float) -> float:
        nearest = sorted(sizes, key=lambda tried: abs(tried - log2_lambda))[:2]
        ratios = [sizes[tried] / forecast(2.0**tried) for tried in nearest]
        ratio = ratios[0] if ratios else 1.0
        if len(nearest) == 2:
            ratio += (ratios[1] - ratios[0]) / (nearest[1] - nearest[0]) * (log2_lambda - nearest[0])
        return forecast(2.0**log2_lambda) * ratio

    too_fine = [log2_lambda for log2_lambda, size in sizes.items() if size > target]
    too_coarse = [log2_lambda for log2_lambda, size in sizes.items() if size <= target]
    low, high = max(too_fine, default=finest), min(too_coarse, default=coarsest)
    if not too_fine and corrected(low) <= target:
        return low
    if not too_coarse and corrected(high) > target:
        return high
    first, last = low, high
    for _ in range(_BISECTIONS):
        middle = (first + last) / 2
        first, last = (middle, last) if corrected(middle) > target else (first, middle)
    # Real sizes are not quite monotonic: a solution on the bracket's edge would repeat an earlier try.
    return last if low < last < high else (low + high) / 2
