"""Integrated gradients: the quadrature against its definition, and attributions against what they are known to be."""

import math

import pytest
import torch
from torch import Tensor

from handrail.algo.attribution import integrated_gradients, path_nodes, straight_path

T, D = 4, 3
TORCH = torch.Generator().manual_seed(0)
X, B, W = (torch.randn(T, D, dtype=torch.float64, generator=TORCH) for _ in range(3))


def attribute(f, steps: int, inputs: Tensor = X, baseline: Tensor = B) -> Tensor:
    """[T] of a function of [T, D], in float64."""
    at, weights = (x.double() for x in path_nodes(steps))
    points = straight_path(inputs, baseline, at).requires_grad_()
    (gradients,) = torch.autograd.grad(sum(f(point) for point in points), points)
    return integrated_gradients(gradients, weights, inputs, baseline)


@pytest.mark.parametrize("steps", [1, 2, 5, 64])
def test_the_quadrature_is_exact_for_polynomials(steps):
    torch.set_default_dtype(torch.float64)
    try:
        at, weights = path_nodes(steps)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (at.diff() > 0).all() and at[0] > 0 and at[-1] < 1 and (weights > 0).all()
    for power in range(2 * steps):
        assert float((weights * at**power).sum()) == pytest.approx(1 / (power + 1), abs=1e-13)


def test_of_a_linear_score_each_token_has_what_it_adds():
    found = attribute(lambda x: (W * x).sum() + 7, 1)
    torch.testing.assert_close(found, (W * (X - B)).sum(1), rtol=1e-12, atol=1e-12)


def test_a_product_is_shared_in_equal_parts():
    """Of F = u v from 0 both factors get u v / 2: what is made together belongs to both."""
    inputs = torch.tensor([[3.0], [5.0]], dtype=torch.float64)
    found = attribute(lambda x: x[0, 0] * x[1, 0], 2, inputs, torch.zeros_like(inputs))
    torch.testing.assert_close(found, torch.tensor([7.5, 7.5], dtype=torch.float64))


def test_it_is_complete_and_what_plays_no_part_gets_nothing():
    def f(x: Tensor) -> Tensor:
        return torch.tanh((W[:3] * x[:3]).sum()) + x[0].square().sum().sqrt()  # the last token is not read

    found = attribute(f, 32)
    assert float(found.sum()) == pytest.approx(float(f(X) - f(B)), abs=1e-6)
    assert float(found[3]) == 0.0


def test_a_token_that_stays_gets_nothing_and_parts_of_the_path_add_up():
    stays = torch.cat([X[:1], B[1:]])
    at, weights = (x.double() for x in path_nodes(8))
    points = straight_path(X, stays, at)
    assert torch.equal(points[:, 0], X[:1].expand(8, -1))
    gradients = torch.randn(8, T, D, dtype=torch.float64, generator=TORCH)
    whole = integrated_gradients(gradients, weights, X, stays)
    halves = [integrated_gradients(gradients[part], weights[part], X, stays) for part in (slice(3), slice(3, None))]
    torch.testing.assert_close(whole, halves[0] + halves[1])
    assert float(whole[0]) == 0.0


def test_a_sharp_bend_near_the_baseline_is_met_where_equal_steps_miss_it():
    """A normalised embedding turns within |b| / |x| of the path; the error of as many equal steps is larger."""
    inputs, baseline = torch.tensor([[3.0, 1.0]], dtype=torch.float64), torch.tensor([[-0.02, 0.06]], dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return x[0, 0] / x[0].norm()

    true = float(f(inputs) - f(baseline))
    at = (torch.arange(32, dtype=torch.float64) + 0.5) / 32
    points = straight_path(inputs, baseline, at).requires_grad_()
    (gradients,) = torch.autograd.grad(sum(f(point) for point in points), points)
    equal = float(integrated_gradients(gradients, torch.full((32,), 1 / 32, dtype=torch.float64), inputs, baseline).sum())
    assert abs(float(attribute(f, 32, inputs, baseline).sum()) - true) < abs(equal - true) / 3
    assert math.isfinite(equal)
