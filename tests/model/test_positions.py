"""Rotary angles: relative, norm-preserving, partial."""

import pytest
import torch

from golf.model.positions import rotary_tables, rotate

TABLES = rotary_tables(32, 4, 100.0, torch.device("cpu"))


def plain_rotate(x, cos, sin):
    """Pairs (i, i + P) turned one after the other; tables (T, P) of each pair's cosine and sine."""
    num_pairs = cos.size(1)
    columns = list(x.unbind(-1))
    for i in range(num_pairs):
        a, b = x[..., i], x[..., i + num_pairs]
        columns[i] = a * cos[:, None, i] - b * sin[:, None, i]
        columns[i + num_pairs] = a * sin[:, None, i] + b * cos[:, None, i]
    return torch.stack(columns, dim=-1)


@pytest.mark.parametrize("num_dims", [0, 4, 8])
def test_rotation_and_its_gradient_equal_the_formula_pair_by_pair(num_dims):
    torch.manual_seed(0)
    x, weights = torch.randn(2, 2, 32, 3, 8, dtype=torch.float64)
    x.requires_grad_()
    angles = torch.outer(torch.arange(32), 100.0 ** (-torch.arange(num_dims // 2) * 2 / max(num_dims, 1)))
    cos, sin = angles.double().cos(), angles.double().sin()
    tables = torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)
    got, expected = rotate(x, *tables), plain_rotate(x, cos, sin)
    torch.testing.assert_close(got, expected, atol=1e-14, rtol=0)
    gradients = [torch.autograd.grad(y, x, weights)[0] for y in (got, expected)]
    torch.testing.assert_close(*gradients, atol=1e-14, rtol=0)
    for table, exact in zip(rotary_tables(32, num_dims, 100.0, x.device), tables, strict=True):
        torch.testing.assert_close(table.double(), exact, atol=2e-6, rtol=0)


def test_scores_depend_on_the_distance_alone():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8)
    turned_q, turned_k = (rotate(x.expand(1, 32, 1, 8), *TABLES)[0, :, 0] for x in (q, k))
    scores = turned_q @ turned_k.T
    for distance in (0, 1, 7):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    assert (scores.diagonal(-7)[0] - scores[0, 0]).abs() > 1e-3


def test_dimensions_beyond_the_rotary_ones_pass_unchanged():
    torch.manual_seed(0)
    x = torch.randn(2, 32, 3, 8)
    turned = rotate(x, *TABLES)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert not torch.equal(turned[..., :4], x[..., :4])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_angles_follow_their_formula():
    cos, sin = TABLES
    angle = torch.tensor(5.0 * 100.0 ** (-2 / 4))
    for pair, sign in ((1, -1), (3, 1)):
        torch.testing.assert_close(cos[5, pair], angle.cos())
        torch.testing.assert_close(sin[5, pair], sign * angle.sin())
