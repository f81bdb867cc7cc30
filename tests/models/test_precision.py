import numpy as np
import pytest

from models.precision import effective_parameters, post_training_degradation

BITS = {"weights": 16.0, "activations": 8.0}
FORM = {"C_T": 0.1, "gamma_D": 0.5, "gamma_N": 0.4, "gamma_post": 0.8}
SENSITIVITY = {"weights": 0.5, "activations": 0.3}


def degradation(**changes: object) -> float | np.ndarray:
    asked = {"post_bits": 4.0, "bits": BITS, "sensitivity": SENSITIVITY, "coefficients": FORM}
    return post_training_degradation(1e8, 1e10, **(asked | changes))


def test_fewer_bits_leave_fewer_parameters() -> None:
    gamma = {"weights": 2.5, "activations": 2.0}
    expected = 1e9 * (1 - np.exp(-16 / 2.5)) * (1 - np.exp(-8 / 2.0))
    assert effective_parameters(1e9, BITS, gamma) == pytest.approx(expected)
    sizes = effective_parameters(1e9, {"weights": np.array([2.0, 4, 8, 1e3])}, {"weights": 2.5})
    assert (np.diff(sizes) > 0).all() and sizes[-1] == pytest.approx(1e9)


def test_degradation_after_training_is_the_paper_s_form() -> None:
    expected = 0.1 * 1e10**0.5 / 1e8**0.4 * np.exp(-4 / 0.8) * (1 - np.exp(-0.5 * 12)) * (1 - np.exp(-0.3 * 4))
    assert degradation() == pytest.approx(expected)
    tokens = np.array([1e9, 1e12])
    longer = post_training_degradation(1e8, tokens, post_bits=4, bits=BITS, sensitivity=SENSITIVITY, coefficients=FORM)
    np.testing.assert_allclose(longer / degradation(), (tokens / 1e10) ** 0.5)
    assert degradation(post_bits=3.0) > degradation() > degradation(post_bits=5.0)
    assert degradation(post_bits=8.0) == degradation(post_bits=12.0) == 0


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gamma names \['weights'\], bits names \['activations', 'weights'\]"):
        effective_parameters(1e9, BITS, {"weights": 2.5})
    with pytest.raises(ValueError, match=r"sensitivity names .* give both for the same parts"):
        degradation(sensitivity={})
    with pytest.raises(ValueError, match=r"bits of weights is 0"):
        effective_parameters(1e9, {"weights": 0}, {"weights": 2})
    with pytest.raises(ValueError, match=r"no gamma_post among the coefficients"):
        degradation(coefficients={name: value for name, value in FORM.items() if name != "gamma_post"})
    with pytest.raises(ValueError, match=r"post_bits is -4"):
        degradation(post_bits=-4)
