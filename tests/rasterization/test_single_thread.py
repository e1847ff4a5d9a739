"""Functions on one thread: the same values and gradients, and no trace left in torch's settings."""

import pytest
import torch
from torch import Tensor

from guidedvd_ns.rasterization.single_thread import on_single_thread, single_thread


def polar(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    assert torch.get_num_threads() == 1
    return torch.sqrt(x * x + y * y), torch.atan2(y, x), (x > 0).int()


@pytest.fixture(autouse=True)
def _three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_values_and_gradients_are_those_of_the_function() -> None:
    x, y = torch.randn(5, requires_grad=True), torch.randn(5)
    radius, angle, right = on_single_thread(polar, x, y)
    assert not right.requires_grad
    loss = (radius * angle.detach() + angle).sum()
    with single_thread():
        expected_radius, expected_angle, expected_right = polar(x, y)
    (expected,) = torch.autograd.grad((expected_radius * expected_angle.detach() + expected_angle).sum(), x)
    assert torch.equal(radius, expected_radius) and torch.equal(right, expected_right)
    for _ in range(2):
        (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
        torch.testing.assert_close(gradient, expected)


def test_nothing_is_differentiated_where_nothing_is_asked_for() -> None:
    assert not on_single_thread(polar, torch.ones(2), torch.ones(2))[0].requires_grad
    with torch.no_grad():
        assert not on_single_thread(polar, torch.ones(2, requires_grad=True), torch.ones(2))[0].requires_grad


def test_the_number_of_threads_comes_back_after_an_error() -> None:
    def fail(x: Tensor) -> tuple[Tensor]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        on_single_thread(fail, torch.ones(1))
