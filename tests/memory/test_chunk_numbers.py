"""Hierarchical chunk attention against numbers worked out by hand.

The small fixture: identity projections, one head, D = C = 2, query (1, 0).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from embodied.nn.chunk_attention import Choice, ChunkAttention, choose, position_code

A, B, C = [[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [2.0, 2.0]], [[-1.0, 1.0], [-1.0, -1.0]]
QUERY = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
CLOSE = {"atol": 1.5e-6, "rtol": 0.0}


def plain(chunk: int = 2, positions: bool = False, width: int = 2, heads: int = 1):
    """Returns a block with identity projections, in float64."""
    block = ChunkAttention(width, heads, chunk, positions).double()
    for name, parameter in block.named_parameters():
        parameter.data.copy_(torch.eye(width) if name.endswith("weight") else torch.zeros(width))
    return block


def read(block: ChunkAttention, chunks: Tensor, choice: Choice, route: str = "gather") -> Tensor:
    query = QUERY if chunks.shape[-1] == 2 else torch.cat([QUERY, QUERY], dim=-1)
    if route == "dense":
        return block.dense(query, *block.project(chunks), choice)[0, 0]
    return block.gather(query, chunks, choice, torch.tensor([0]))[0][0, 0]


def chosen(block: ChunkAttention, chunks: Tensor, k: int, norm: str = "topk", live=None) -> Choice:
    logits = block.relevance(QUERY, chunks.mean(dim=2))
    live = torch.ones(1, 1, chunks.shape[1], dtype=torch.bool) if live is None else live
    return choose(logits, live, torch.arange(chunks.shape[1])[None], k, norm)


def memory(*chunks: list) -> Tensor:
    return torch.tensor([chunks], dtype=torch.float64)


def weighing(*weights: float) -> Choice:
    """Reads every chunk with given weights."""
    weight = torch.tensor([[weights]], dtype=torch.float64)
    index = torch.arange(len(weights))[None, None]
    return Choice(index, weight, torch.ones_like(index, dtype=torch.bool))


def full_attention(vectors: Tensor) -> Tensor:
    """Attention of the query over [N, 2] vectors that are keys and values."""
    scores = vectors @ QUERY[0, 0] / 2**0.5
    return torch.softmax(scores, dim=0) @ vectors


def near(found: Tensor, *expected: float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), **CLOSE)


TABLE = [
    (1, [1.0], (2.0, 1.0), (2.542340, 1.414691)),
    (2, [0.742817, 0.257183], (1.657885, 0.827749), (2.260829, 1.270079)),
    (3, [0.682082, 0.236155, 0.081763], (1.440567, 0.760069), (2.038556, 1.247403)),
]


@pytest.mark.parametrize("route", ["gather", "dense"])
@pytest.mark.parametrize(("k", "weights", "value", "coded"), TABLE)
def test_the_table_of_reads(k, weights, value, coded, route) -> None:
    block, chunks = plain(), memory(A, B, C)
    logits = block.relevance(QUERY, chunks.mean(dim=2))
    near(logits[0, 0], 0.353553, 1.414214, -0.707107)
    choice = chosen(block, chunks, k)
    assert choice.index[0, 0].tolist() == [1, 0, 2][:k]
    near(choice.weight[0, 0], *weights)
    near(read(block, chunks, choice, route), *value)
    near(read(plain(positions=True), chunks, choice, route), *coded)


def test_the_norm_over_all_does_not_renormalise() -> None:
    choice = chosen(plain(), memory(A, B, C), 2, "all")
    near(choice.weight[0, 0], 0.682082, 0.236155)
    assert torch.equal(chosen(plain(), memory(A, B, C), 3, "all").weight.sum().round(decimals=9),
                       torch.tensor(1.0).double())  # fmt: skip


def test_position_code_counts_down_with_sines_in_front() -> None:
    expected = [
        [0.909297, 0.019999, -0.416147, 0.999800],
        [0.841471, 0.010000, 0.540302, 0.999950],
        [0.0, 0.0, 1.0, 1.0],
    ]
    torch.testing.assert_close(position_code(3, 4), torch.tensor(expected), **CLOSE)
    assert torch.equal(position_code(2, 5)[:, -1], torch.zeros(2))


# ---- what it equals -------------------------------------------------------------------------


def test_weights_by_log_sum_exp_make_it_full_attention() -> None:
    chunks = memory(A, B, C)
    inside = torch.logsumexp(chunks[0] @ QUERY[0, 0] / 2**0.5, dim=1)
    weights = torch.softmax(inside, dim=0)
    near(weights, 0.247380, 0.672058, 0.080562)
    value = read(plain(), chunks, weighing(*weights.tolist()))
    near(value, 1.429240, 0.753753)
    torch.testing.assert_close(value, full_attention(chunks.reshape(-1, 2)), **CLOSE)


def test_uniform_weights_give_the_mean_of_the_chunks() -> None:
    chunks = memory(A, B, C)
    alone = torch.stack([full_attention(chunk) for chunk in chunks[0]])
    value = read(plain(), chunks, weighing(*[1 / 3] * 3))
    torch.testing.assert_close(value, alone.mean(dim=0), **CLOSE)
    same = memory(A, A, A)
    by_relevance = read(plain(), same, chosen(plain(), same, 3))
    for found in (by_relevance, read(plain(), same, weighing(*[1 / 3] * 3)),
                  full_attention(same.reshape(-1, 2))):  # fmt: skip
        near(found, 0.669762, 0.330238)


def test_chunks_of_one_make_it_full_attention() -> None:
    chunks = memory(A[:1], B[:1], C[:1])
    block = plain(chunk=1)
    value = read(block, chunks, chosen(block, chunks, 3))
    near(value, 1.471346, 0.074320)
    torch.testing.assert_close(value, full_attention(chunks.reshape(-1, 2)), **CLOSE)


def test_constant_chunks_make_it_attention_over_summaries() -> None:
    summaries = memory(A, B, C).mean(dim=2, keepdim=True)
    chunks = summaries.expand(-1, -1, 2, -1)
    near(read(plain(), chunks, chosen(plain(), chunks, 3)), 1.400477, 0.800159)
    torch.testing.assert_close(
        read(plain(), chunks, chosen(plain(), chunks, 3)), full_attention(summaries.view(-1, 2))
    )


def test_alike_heads_equal_one_head() -> None:
    """Two heads of width 2 on doubled vectors: scores have the same scale."""
    chunks = memory(A, B, C)
    doubled = torch.cat([chunks, chunks], dim=-1)
    choice = chosen(plain(), chunks, 2)
    for route in ("gather", "dense"):
        one = read(plain(), chunks, choice, route)
        two = read(plain(width=4, heads=2), doubled, choice, route)
        torch.testing.assert_close(two, torch.cat([one, one]))


# ---- what may be read -----------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["topk", "all"])
@pytest.mark.parametrize("route", ["gather", "dense"])
def test_nothing_to_read_gives_exactly_nothing(norm, route) -> None:
    """The released code reads all empty slots alike here: (1.334881, 0.665119)."""
    block, chunks = ChunkAttention(2, 1, 2).double(), memory(A, B, C)
    block.out.bias.data.fill_(3.0)
    query, chunks = QUERY.clone().requires_grad_(), chunks.requires_grad_()
    none = torch.zeros(1, 1, 3, dtype=torch.bool)
    logits = block.relevance(query, chunks.mean(dim=2))
    choice = choose(logits, none, torch.arange(3)[None], 2, norm)
    if route == "dense":
        value = block.dense(query, *block.project(chunks), choice)
    else:
        value, _ = block.gather(query, chunks, choice, torch.tensor([0]))
    assert torch.equal(value, torch.zeros_like(value))
    value.sum().backward()
    for tensor in (query, chunks, *block.parameters()):
        assert tensor.grad is None or torch.equal(tensor.grad, torch.zeros_like(tensor))
    near(read(plain(), memory(A, B), weighing(0.5, 0.5)), 1.334881, 0.665119)


@pytest.mark.parametrize("norm", ["topk", "all"])
def test_more_reads_than_chunks_equal_as_many(norm) -> None:
    block, chunks = plain(), memory(A, C, B)
    live = torch.tensor([[[True, False, True]]])
    few, many = (chosen(block, chunks, k, norm, live) for k in (2, 3))
    assert few.real.all() and many.real.sum() == 2
    torch.testing.assert_close(read(block, chunks, many), read(block, chunks, few))
    garbage = chunks.clone()
    garbage[:, 1] = 1e3
    value = read(block, garbage, chosen(block, garbage, 3, norm, live))
    assert torch.equal(value, read(block, chunks, many))


def test_one_chunk_has_all_the_weight_and_teaches_no_relevance() -> None:
    block, chunks = plain(), memory(A)
    choice = chosen(block, chunks, 2)
    assert choice.weight.tolist() == [[[1.0]]]
    value = read(block, chunks, choice)
    torch.testing.assert_close(value, full_attention(chunks[0, 0]))
    value.square().sum().backward()
    for linear in (block.relevance_query, block.relevance_key):
        assert not linear.weight.grad.any()
    assert block.value.weight.grad.any()


def test_equals_are_taken_in_the_order_they_were_written() -> None:
    """The same vectors in another order have the same summary, up to the last bit."""
    logits = torch.tensor([[[1.0, 2.0, 2.0 + 1e-7, 2.0 - 1e-7, 0.0]]])
    live = torch.ones_like(logits, dtype=torch.bool)
    for number in ([4, 3, 2, 1, 0], [0, 1, 2, 3, 4]):
        choice = choose(logits, live, torch.tensor([number]), 2, "topk")
        assert choice.index[0, 0].tolist() == ([3, 2] if number[0] else [1, 2])


def test_a_constant_added_to_relevance_changes_nothing() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)).double()
    live = torch.rand(2, 3, 7, generator=torch.Generator().manual_seed(1)) < 0.7
    number = torch.arange(7).expand(2, 7)
    for norm in ("topk", "all"):
        plainly, moved = (choose(x, live, number, 3, norm) for x in (logits, logits + 5.0))
        assert torch.equal(plainly.index, moved.index)
        torch.testing.assert_close(plainly.weight, moved.weight)


@pytest.mark.parametrize("route", ["gather", "dense"])
@pytest.mark.parametrize("positions", [False, True])
def test_order_of_chunks_and_inside_them(route, positions) -> None:
    torch.manual_seed(0)
    block = ChunkAttention(2, 1, 2, positions).double()
    chunks = memory(A, B, C)
    value = read(block, chunks, chosen(block, chunks, 2), route)
    other = chunks[:, [2, 0, 1]]
    torch.testing.assert_close(read(block, other, chosen(block, other, 2), route), value)
    turned = chunks.flip(2)
    inside = read(block, turned, chosen(block, turned, 2), route)
    assert torch.allclose(inside, value) != positions


# ---- gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["gather", "dense"])
@pytest.mark.parametrize(("k", "norm"), [(1, "topk"), (2, "topk"), (1, "all"), (2, "all")])
def test_gradient_of_relevance(k, norm, route) -> None:
    """topk: w_i (o_i - read) of those chosen, none of others, so none at all with k = 1.

    all: R_i (o_i - sum_j R_j o_j over the chosen j); -R_i times that sum for others.
    """
    block, chunks = plain(), memory(A, B, C)
    alone = torch.stack([full_attention(chunk) for chunk in chunks[0]])

    def value(logits: Tensor) -> Tensor:
        live = torch.ones(1, 1, 3, dtype=torch.bool)
        return read(block, chunks, choose(logits, live, torch.arange(3)[None], k, norm), route)

    logits = block.relevance(QUERY, chunks.mean(dim=2)).detach()
    jacobian = torch.autograd.functional.jacobian(value, logits)[:, 0, 0].T
    best = logits[0, 0].argsort(descending=True)[:k]
    weight, scores = torch.zeros(3).double(), logits[0, 0]
    weight[best] = (
        torch.softmax(scores[best], 0) if norm == "topk" else torch.softmax(scores, 0)[best]
    )
    everyone = torch.softmax(scores, 0) if norm == "all" else weight
    result = weight @ alone
    expected = weight[:, None] * alone - everyone[:, None] * result
    torch.testing.assert_close(jacobian, expected)
    for i in range(3):
        step = torch.zeros_like(logits)
        step[..., i] = 1e-6
        slope = (value(logits + step) - value(logits - step)) / 2e-6
        torch.testing.assert_close(slope, jacobian[i], atol=1e-6, rtol=0)
    assert jacobian.any() == ((k, norm) != (1, "topk"))


def test_stopped_gradients_leave_maps_and_query_theirs() -> None:
    torch.manual_seed(0)
    block, chunks, query = ChunkAttention(4, 2, 3), torch.randn(1, 5, 3, 4), torch.randn(1, 2, 4)
    query.requires_grad_()
    logits = block.relevance(query, chunks.mean(dim=2))
    choice = choose(logits, torch.ones(1, 2, 5, dtype=torch.bool), torch.arange(5)[None], 2, "topk")
    value, _ = block.gather(query, chunks, choice, torch.tensor([0]))
    value.square().sum().backward()
    assert query.grad.any() and all(p.grad.any() for p in block.parameters())
