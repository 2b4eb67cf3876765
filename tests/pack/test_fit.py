import math

import numpy as np
import pytest

from golf.pack.fit import MIN_BAND_BYTES, BudgetError, fit_lambda

FINEST, COARSEST = 2.0**-40, 2.0**-4


def sizes(num_weights: int, sigma: float, noise: float, seed: int = 0):
    """A made-up model: weights whose best steps differ, and a size that trembles around its curve."""
    rng = np.random.default_rng(seed)
    levels = rng.standard_normal(500) * sigma - 15

    def forecast(rate_lambda: float) -> float:
        bits = np.log2(1 + 17 * np.exp2(2 * (levels - math.log2(rate_lambda) / 2))) / 2
        return 500 + num_weights / 8 * float(bits.mean())

    def encode(rate_lambda: float) -> bytes:
        bend = 1.05 + 0.02 * math.sin(math.log2(rate_lambda))
        return bytes(int(forecast(rate_lambda) * bend * (1 + noise * rng.standard_normal())))

    return encode, forecast


@pytest.mark.parametrize("sigma", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("bits", [1.2, 2.5, 4.5])
def test_the_size_lands_in_the_band_in_a_few_tries(sigma, bits):
    num_weights = 300_000
    encode, forecast = sizes(num_weights, sigma, noise=1e-5)
    limit = int(bits * num_weights / 8)
    artifact, report = fit_lambda(encode, forecast, FINEST, COARSEST, limit)
    assert report["fit"] == "band" and report["fit_tries"] <= 6
    assert limit - MIN_BAND_BYTES <= len(artifact) <= limit


def test_a_trembling_size_never_passes_the_limit():
    for seed in range(20):
        encode, forecast = sizes(50_000, 1.0, noise=2e-3, seed=seed)
        artifact, _ = fit_lambda(encode, forecast, FINEST, COARSEST, 20_000)
        assert 0.99 * 20_000 < len(artifact) <= 20_000


def test_far_below_the_limit_the_finest_useful_grid_is_taken():
    encode, forecast = sizes(20_000, 1.0, noise=0.0)
    _, report = fit_lambda(encode, forecast, FINEST, COARSEST, 10**6)
    assert report == {"lambda_nats_per_bit": FINEST, "fit": "finest", "fit_tries": 1}


def test_a_finest_grid_that_only_just_fits_is_taken():
    encode, forecast = sizes(20_000, 1.0, noise=0.0)
    exact = len(encode(FINEST))
    assert len(fit_lambda(encode, forecast, FINEST, COARSEST, exact)[0]) == exact


def test_a_coarsest_grid_that_is_too_big_is_an_error():
    encode, forecast = sizes(200_000, 1.0, noise=0.0)
    with pytest.raises(BudgetError, match="no lambda"):
        fit_lambda(encode, forecast, FINEST, COARSEST, 400)
