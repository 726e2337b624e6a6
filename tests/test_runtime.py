"""A runtime makes computations repeatable and puts the settings back."""

import torch

from pipeline import runtime


def test_a_runtime_insists_on_repeatable_algorithms_and_puts_the_settings_back() -> None:
    with runtime.use("cpu", threads=3):
        assert torch.get_deterministic_debug_mode() == 2, "an operation that is not raises an error"
        assert torch.are_deterministic_algorithms_enabled()
        with runtime.use("cpu", threads=1):
            torch.set_deterministic_debug_mode("default")
        assert torch.get_deterministic_debug_mode() == 2
        assert torch.get_num_threads() == 3


def test_denormal_numbers_are_flushed_to_zero() -> None:
    with runtime.use("cpu", threads=1):
        product = torch.full((1_000_000,), 1e-30) * 1e-10
    assert not product.any(), "a product of denormal numbers takes ten times as long on some CPUs"
