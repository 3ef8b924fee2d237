"""A sum in pieces against the same sum at once."""

import pytest
import torch

from gmlvm import pieces
from gmlvm.pieces import sum_in_pieces


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def tensors():
    """Rows, one of them of integers, and others, of which one asks for no gradient."""
    rows = (normal(0, 7, 2).requires_grad_(), torch.arange(7))
    return rows, (normal(1, 5, 2).requires_grad_(), normal(2, 5))


def part(rows, others):
    (codes, index), (partners, weight) = rows, others
    return ((codes @ partners.t()).tanh() * weight * index[:, None]).sum()


@pytest.fixture
def small_pieces(monkeypatch):
    """As many values in a piece as one row has: so many pieces as rows."""
    monkeypatch.setattr(pieces, "_CPU", 5)


def asking(tensors):
    return [tensor for group in tensors for tensor in group if tensor.requires_grad]


@pytest.mark.parametrize("held", [10, 15, 35, 1000])
def test_value_and_gradients_are_those_of_the_whole(tensors, small_pieces, held):
    whole, split = part(*tensors), sum_in_pieces(part, *tensors, held=held)
    torch.testing.assert_close(split, whole, rtol=1e-13, atol=0)
    gradients = [torch.autograd.grad(3 * value, asking(tensors)) for value in (whole, split)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def test_the_rows_can_be_another_axis(small_pieces):
    rows, weight = (normal(0, 3, 7).requires_grad_(), normal(1, 3, 7, 2)), normal(2, 3).requires_grad_()

    def across(rows, others):
        (values, more), (weight,) = rows, others
        return (weight @ (values * more.sum(-1)).sin()).sum()

    whole, split = across(rows, (weight,)), sum_in_pieces(across, rows, (weight,), held=20, dim=1)
    torch.testing.assert_close(split, whole)
    gradients = [torch.autograd.grad(value, (rows[0], weight)) for value in (whole, split)]
    torch.testing.assert_close(*gradients)


def test_one_piece_is_left_to_autograd(tensors):
    seen = []

    def looking(rows, others):
        seen.append([tensor is given for tensor, given in zip((*rows, *others), sum(tensors, ()), strict=True)])
        return part(rows, others)

    sum_in_pieces(looking, *tensors, held=35)
    assert seen == [[True] * 4]


def test_a_piece_holds_few_rows(tensors, small_pieces):
    sizes = []

    def looking(rows, others):
        sizes.append(len(rows[0]))
        return part(rows, others)

    sum_in_pieces(looking, *tensors, held=12)
    assert sorted(sizes[1:]) == [2, 2, 3]  # the first looks for what else asks for gradients
    sizes.clear()
    with torch.no_grad():
        sum_in_pieces(looking, *tensors, held=15)
    assert sorted(sizes) == [2, 2, 3]


def test_what_else_asks_for_gradients_gets_them(tensors, small_pieces):
    width = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def learning(rows, others):
        return width.exp() * part(rows, others)

    split = sum_in_pieces(learning, *tensors, held=35)
    inputs = [width, *asking(tensors)]
    torch.testing.assert_close(
        torch.autograd.grad(split, inputs), torch.autograd.grad(learning(*tensors), inputs), rtol=1e-12, atol=1e-15
    )


def test_nothing_asks_for_gradients_where_none_are_taken(tensors, small_pieces):
    with torch.no_grad():
        assert not sum_in_pieces(part, *tensors, held=35).requires_grad
    rows, others = ([tensor.detach() for tensor in group] for group in tensors)
    value = sum_in_pieces(part, rows, others, held=35)
    assert not value.requires_grad
    torch.testing.assert_close(value, part(rows, others), rtol=1e-13, atol=0)


def test_the_way_back_can_be_taken_twice(tensors, small_pieces):
    value = sum_in_pieces(part, *tensors, held=35)
    first, second = (torch.autograd.grad(value, asking(tensors), retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
