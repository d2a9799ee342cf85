"""Attention in two levels: choose a few chunks by their summaries, then attend inside each.

Three steps: `relevance` compares queries with summaries, `choose` takes the k best and weighs
them, `gather` or `dense` attends. `gather` looks at the chosen chunks alone and projects none of
them (the projections move to the query's side); `dense` projects every chunk once and attends
inside all, which pays where many queries read few chunks. Both give the same.

Shape letters: B rows, R queries of a row, P chunks, C vectors of a chunk, k chunks read, D width,
H heads, E width of a head.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError, unknown_name
from embodied.nn.position import sinusoid
from embodied.nn.window_attention import (
    check_heads,
    move_query,
    move_value,
    scaled_init,
    start_equal,
)

RELEVANCE_NORMS = ("topk", "all")

NOT_RELEVANT = -1.0e6
"""Logit of a chunk that may not be read (the released code's)."""

RELEVANCE_STEP = 1.0e-4
"""Logits are compared in steps of this, and of equals the chunk written first is taken. Chunks of
the same vectors in another order have the same summary: the last bit would decide between them."""

NUMBERS = 2**31
"""More than a chunk's number in its episode, and than a logit in steps."""


@dataclasses.dataclass
class Choice:
    """Chunks to read.

    Attributes:
      index: int64 [B, R, k].
      weight: [B, R, k]; 0 where fewer than k may be read.
      real: bool [B, R, k]; whether the chunk may be read.
    """

    index: Tensor
    weight: Tensor
    real: Tensor


def position_code(chunk: int, width: int) -> Tensor:
    """Returns [C, D]: sines, then cosines, of the age within a chunk; the last vector has age 0.

    Source: HCAM's released code.
    """
    cosines_sines = sinusoid(torch.arange(chunk - 1, -1, -1), width - width % 2)
    cosines, sines = cosines_sines.chunk(2, dim=-1)
    return torch.cat([sines, cosines, torch.zeros(chunk, width % 2)], dim=-1)


def choose(logits: Tensor, visible: Tensor, number: Tensor, k: int, norm: str) -> Choice:
    """Chooses the k best chunks of each query.

    Args:
      logits: [B, R, P].
      visible: bool [B, R, P]; chunks that may be read.
      number: int64 [B, P]; the order in which chunks were written, for those alike.
      k: Chunks to read; all, if there are fewer.
      norm: ``"topk"``: weights are a softmax over the chosen ones (released code); ``"all"``:
        over all that may be read, so that the chosen ones sum to less than 1 (paper).
    """
    steps = (logits.detach() / RELEVANCE_STEP).round_().clamp_(1 - NUMBERS, NUMBERS - 1).long()
    order = steps.mul_(NUMBERS).sub_(number[:, None])
    order.masked_fill_(~visible, torch.iinfo(torch.int64).min)
    index = order.topk(min(k, logits.shape[-1]), dim=-1).indices
    real = visible.gather(-1, index)
    if norm == "all":
        whole = torch.softmax(logits.masked_fill(~visible, NOT_RELEVANT), dim=-1)
        weight = whole.gather(-1, index)
    else:
        best = logits.gather(-1, index).masked_fill(~real, NOT_RELEVANT)
        weight = torch.softmax(best, dim=-1)
    return Choice(index, weight * real, real)


class ChunkAttention(nn.Module):
    """The read of hierarchical chunk attention; the norm before and the residual are the layer's.

    logit_m = (Wq y . Wk s_m) / sqrt(D), read = sum_i w_i MHA(y, c_i + p), with s the mean of a
    chunk's vectors c and p the sinusoid of the age within the chunk. Without any chunk the read
    is exactly 0. The key and value maps of the attention have no bias: the first changes no
    softmax, the second is a part of the output's bias.

    Args:
      width: D.
      heads: H of the attention inside chunks; divides D. Relevance has one.
      chunk: C.
      positions: Adds p; without, the order inside a chunk does not matter.
      qk_init: As in `WindowAttention`, for relevance and attention alike.

    Source: HCAM (arXiv 2105.14039), its released code.
    """

    code: Tensor

    def __init__(
        self,
        width: int,
        heads: int,
        chunk: int,
        positions: bool = True,
        qk_init: str = "independent",
    ) -> None:
        super().__init__()
        check_heads(width, heads, qk_init)
        self.heads, self.head_width, self.positions = heads, width // heads, positions
        self.relevance_query = nn.Linear(width, width, bias=False)
        self.relevance_key = nn.Linear(width, width, bias=False)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        code = position_code(chunk, width)
        self.register_buffer("code", code if positions else code * 0, persistent=False)
        for linear in self.children():
            assert isinstance(linear, nn.Linear)
            scaled_init(linear)
        if qk_init == "equal":
            start_equal(self.relevance_query, self.relevance_key, width)
            start_equal(self.query, self.key, self.head_width)

    def relevance(self, query: Tensor, summaries: Tensor) -> Tensor:
        """Returns logits [B, R, P], in the weights' dtype, of [B, R, D] and summaries [B, P, D]."""
        # In narrow floats chunks would come out equal that are not.
        with torch.autocast(query.device.type, enabled=False):
            key = self.relevance_key.weight
            asked = torch.matmul(self.relevance_query(query.to(key.dtype)), key)
            asked = asked / math.sqrt(query.shape[-1])
            return torch.bmm(asked, summaries.to(key.dtype).transpose(1, 2))

    def gather(
        self, query: Tensor, chunks: Tensor, choice: Choice, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attends inside the chosen chunks alone.

        Args:
          query: [B, R, D].
          chunks: [rows, P, C, D]; B rows, or more.
          choice: For each query.
          rows: int64 [B]; the row of `chunks` that each row of queries reads.

        Returns:
          [B, R, D], and the weights of the vectors read, [B, R, H, k, C].
        """
        B, R, D = query.shape
        P, C = chunks.shape[1:3]
        H, k, n = self.heads, choice.index.shape[-1], B * R
        index = (rows[:, None, None] * P + choice.index).flatten()
        found = chunks.reshape(-1, C * D).index_select(0, index).view(n, k * C, D)
        moved = move_query(self._query(query).view(n, H, -1), self.key.weight)
        scores = torch.bmm(moved, found.transpose(1, 2).to(moved.dtype)).view(n, H, k, C)
        place = torch.matmul(moved, self.code.to(moved.dtype).t())
        inside = torch.softmax(scores + place[:, :, None], dim=-1)
        weights = inside * choice.weight.view(n, 1, k, 1)
        mixed = torch.bmm(weights.view(n, H, k * C).to(found.dtype), found)
        mixed = mixed + torch.matmul(weights.sum(2).to(found.dtype), self.code.to(found.dtype))
        value = self._finish(move_value(mixed, self.value.weight).view(B, R, D), choice)
        return value, weights.view(B, R, H, k, C)

    def project(self, chunks: Tensor) -> tuple[Tensor, Tensor]:
        """Returns keys and values [B, H, E, P * C] of chunks [B, P, C, D], for `dense`."""
        B, P, C, D = chunks.shape
        coded = (chunks + self.code.to(chunks.dtype)).view(B, P * C, D)
        keys, values = (
            m(coded).view(B, P * C, self.heads, -1).permute(0, 2, 3, 1)
            for m in (self.key, self.value)
        )
        return keys, values

    def dense(self, query: Tensor, keys: Tensor, values: Tensor, choice: Choice) -> Tensor:
        """Attends inside every chunk and weighs those chosen.

        Args:
          query: [B, R, D].
          keys: From `project`, or the chunks that come first in it.
          values: The same.
          choice: For each query, among these chunks.

        Returns:
          [B, R, D].
        """
        B, R, D = query.shape
        C = self.code.shape[0]
        P = keys.shape[-1] // C
        asked = self._query(query).view(B, R, self.heads, -1).transpose(1, 2)
        scores = torch.matmul(asked, keys)
        inside = torch.softmax(scores.view(B, -1, R, P, C), dim=-1)
        chunk = choice.weight.new_zeros(B, R, P).scatter(-1, choice.index, choice.weight)
        weights = (inside * chunk[:, None, :, :, None]).view(B, -1, R, P * C)
        mixed = torch.matmul(weights.to(values.dtype), values.transpose(-1, -2))
        return self._finish(mixed.transpose(1, 2).reshape(B, R, D), choice)

    def _query(self, query: Tensor) -> Tensor:
        scaled: Tensor = self.query(query) / math.sqrt(self.head_width)
        return scaled

    def _finish(self, mixed: Tensor, choice: Choice) -> Tensor:
        """Output map of the weighted sum; its bias counts as often as there is weight."""
        mapped = nn.functional.linear(mixed, self.out.weight)
        return mapped + choice.weight.sum(-1, keepdim=True).to(mapped.dtype) * self.out.bias


def check_read(top_k: int, capacity: int, norm: str) -> None:
    """Refuses reads of no chunk or of more than there can be, and unknown norms."""
    if not 1 <= top_k <= capacity:
        raise ConfigError(
            f"memory.top_k must be within 1 and memory.capacity={capacity} chunks, got {top_k}"
        )
    if norm not in RELEVANCE_NORMS:
        raise unknown_name("memory.relevance_norm", norm, RELEVANCE_NORMS)
