from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from models.budgets import PEAK_FLOPS, deepseek_hyperparameters, flops_of, flops_of_money, gpu_hours_of, money_of
from models.budgets import peak_flops as peak

A100 = {"peak_flops_per_second": 312e12, "utilisation": 0.5}


def test_hours_and_money_become_flops_and_back() -> None:
    assert flops_of(1000, **A100) == pytest.approx(1000 * 3600 * 312e12 * 0.5)
    assert gpu_hours_of(flops_of(1000, **A100), **A100) == pytest.approx(1000)
    assert flops_of_money(2000, price_per_gpu_hour=2, **A100) == pytest.approx(flops_of(1000, **A100))
    assert money_of(flops_of(1000, **A100), price_per_gpu_hour=2, **A100) == pytest.approx(2000)
    prices = flops_of_money(100, price_per_gpu_hour=np.array([1.0, 2, 4]), **A100)
    assert isinstance(prices, np.ndarray)
    np.testing.assert_allclose(prices / prices[0], [1, 0.5, 0.25])


def test_accelerators_are_found_by_name_and_lie_in_order() -> None:
    assert len(PEAK_FLOPS) >= 12
    assert peak("h100 sxm") == PEAK_FLOPS["H100 SXM"] == 989e12
    assert peak("L4") < peak("A100") < peak("H100 PCIe") < peak("H100 SXM") < peak("MI300X") < peak("B200")
    assert all(1e13 < value < 1e16 for value in PEAK_FLOPS.values())
    with pytest.raises(ValueError, match=r"no accelerator 'K80'; give its FLOP/s, or one of A10, A100"):
        peak("K80")


def test_batch_and_learning_rate_follow_the_published_powers() -> None:
    small, large = deepseek_hyperparameters(1e19), deepseek_hyperparameters(1e20)
    assert small["learning_rate"] == pytest.approx(0.3118 * 1e19**-0.125)
    assert small["batch_tokens"] == pytest.approx(0.2920 * 1e19**0.3271)
    assert np.log10(large["learning_rate"] / small["learning_rate"]) == pytest.approx(-0.1250)
    assert np.log10(large["batch_tokens"] / small["batch_tokens"]) == pytest.approx(0.3271)
    # their 7B model: 4.2e-4 and 2304 sequences of 4096 tokens, at 7e9 parameters and 2e12 tokens
    planned = deepseek_hyperparameters(6 * 6.5e9 * 2e12)
    assert planned["learning_rate"] == pytest.approx(4.2e-4, rel=0.1)
    assert planned["batch_tokens"] == pytest.approx(2304 * 4096, rel=0.2)


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: flops_of(0, **A100), r"gpu_hours is 0, .* summed over all accelerators"),
    (
        lambda: flops_of(1, peak_flops_per_second=0, utilisation=0.5),
        r"peak_flops_per_second is 0, .* peak_flops\('A100'\)",
    ),
    (lambda: flops_of(1, peak_flops_per_second=1, utilisation=40), r"utilisation is 40, .* at most 1; give the share"),
    (lambda: gpu_hours_of(-1, **A100), r"compute is -1, .* give FLOPs"),
    (lambda: flops_of_money(-5, price_per_gpu_hour=1, **A100), r"money is -5"),
    (lambda: money_of(1, price_per_gpu_hour=0, **A100), r"price_per_gpu_hour is 0"),
    (lambda: deepseek_hyperparameters(np.nan), r"compute is nan"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_refused_with_its_name_its_value_and_a_remedy(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
