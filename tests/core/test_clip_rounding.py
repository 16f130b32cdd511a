"""Clips compute in float32 or wider, and round once: also under vmap, also part by part."""

import pytest
import torch
from torch_peer import same_bits

from fnopt import AdaptiveClip, Centralize, ClipNorm, ClipParamNorm
from fnopt.transforms.adaptive_clip import unit_norm
from fnopt.transforms.clip import scaled

HALF = [torch.bfloat16, torch.float16]


def some(shape, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", HALF)
def test_members_are_scaled_as_each_alone(dtype):
    """Under vmap, where the coefficient is no number any more, half precision gives the bits of a loop."""
    g, coefs = some((5, 40), dtype), torch.linspace(0.1, 0.9, 5)
    alone = torch.stack([scaled(member, coef) for member, coef in zip(g, coefs, strict=True)])
    assert same_bits(torch.func.vmap(scaled)(g, coefs), alone)
    assert same_bits(
        alone, torch.stack([(m.double() * c.double()).float().to(dtype) for m, c in zip(g, coefs, strict=True)])
    )


def test_a_complex_gradient_is_scaled_as_its_parts():
    """Beside a wider leaf, whose dtype the norm has, a complex gradient has the bits of two real ones."""
    parts, coef = some((50, 2), torch.float32), torch.tensor(1 / 3, dtype=torch.float64)
    assert same_bits(torch.view_as_real(scaled(torch.view_as_complex(parts), coef)), scaled(parts, coef))


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("clip", [ClipNorm(1.0), ClipParamNorm(1.0)])
def test_complex_half_stays_complex_half(clip):
    """Gradients of two float16 parts are clipped in float32 and come back as they were."""
    grads = {"w": torch.tensor([3 + 4j], dtype=torch.complex32)}
    result = clip.transform(grads, clip.init_state(grads), grads)[0]["w"]
    assert result.dtype == torch.complex32
    assert torch.view_as_real(result).tolist() == torch.tensor([[0.6, 0.8]], dtype=torch.float16).tolist()


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_rounded_once(dtype):
    """Norms, means and bounds of half precision are those of float32: the result is float32's, rounded."""
    wide = {"w": some((4, 300), torch.float32).to(dtype).float(), "v": some(300, torch.float32, 1).to(dtype).float()}
    half = {name: leaf.to(dtype) for name, leaf in wide.items()}
    for transform in (AdaptiveClip(0.5), Centralize(), ClipNorm(2.0), ClipParamNorm(2.0)):
        expected = transform.transform(wide, transform.init_state(wide), wide)[0]
        found = transform.transform(half, transform.init_state(half), half)[0]
        assert all(same_bits(found[name], leaf.to(dtype)) for name, leaf in expected.items())


def test_the_bound_is_as_precise_as_the_gradient():
    """Beside float32 weights of 0, a float64 gradient is bounded by clipping times eps in float64."""
    params, grads = {"w": torch.zeros(1, 2)}, {"w": torch.tensor([[3.0, 4.0]], dtype=torch.float64)}
    clip = AdaptiveClip(0.1, eps=0.1)
    result = clip.transform(grads, clip.init_state(params), params)[0]["w"]
    torch.testing.assert_close(result.norm().item(), 0.1 * 0.1, rtol=1e-15, atol=0.0)


def test_units_are_slices_along_the_first_dimension():
    """One norm for each slice of a matrix or of more dimensions, which stay; one for a vector, and for a scalar."""
    assert unit_norm(torch.tensor([[3.0, 4.0], [0.0, 2.0]])).tolist() == [[5.0], [2.0]]
    assert unit_norm(torch.ones(2, 2, 8)).tolist() == [[[4.0]], [[4.0]]]
    assert unit_norm(torch.tensor([3.0, 4.0])).tolist() == 5.0
    assert unit_norm(torch.tensor(-3.0)).tolist() == 3.0
