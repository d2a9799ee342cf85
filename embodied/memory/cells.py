"""Whole segments through a recurrent layer, resets and holes included.

Where a segment has neither, torch's own kernel runs it. Elsewhere a loop does, with the inputs'
part of the gates made for all ticks at once. (Packed sequences of pieces of episodes would do
without the loop, but their backward pass costs the square of the length.)

Shape letters: B rows, T observation ticks, V width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied.memory.base import where_rows
from embodied.nn.rows import looks_at_data


def run_lstm(
    cell: nn.LSTMCell, items: Tensor, hidden: Tensor, memory: Tensor, first: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs T ticks of one layer.

    Args:
      cell: The weights.
      items: [B, T, V].
      hidden: [B, V] before.
      memory: [B, V], the cell vector before.
      first: [B, T] bool; the row is cleared before this tick.
      valid: [B, T] bool; False leaves the vectors as they are.

    Returns:
      The hidden vector after each tick, [B, T, V], and both vectors at the end.
    """
    items = items.to(cell.weight_ih.dtype)
    if _is_plain(first, valid):
        start = [_cleared(state, first[:, 0])[None] for state in (hidden, memory)]
        out, end, memory = torch.lstm(
            items, start, list(cell.parameters()), True, 1, 0.0, cell.training, False, True
        )
        return out, end[0], memory[0]
    after, recur = [], cell.weight_hh.t()
    gates = F.linear(items, cell.weight_ih, cell.bias_ih + cell.bias_hh).unbind(1)
    for t, gate in enumerate(gates):
        h, c = _cleared(hidden, first[:, t]), _cleared(memory, first[:, t])
        i, f, g, o = torch.addmm(gate, h, recur).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        memory = where_rows(valid[:, t], c, memory)
        hidden = where_rows(valid[:, t], torch.sigmoid(o) * torch.tanh(c), hidden)
        after.append(hidden)
    return torch.stack(after, dim=1), hidden, memory


def run_gru(
    cell: nn.GRUCell, items: Tensor, hidden: Tensor, first: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs T ticks of one layer; arguments as in `run_lstm`.

    Returns:
      The hidden vector after each tick, [B, T, V], and at the end.
    """
    items = items.to(cell.weight_ih.dtype)
    if _is_plain(first, valid):
        start = _cleared(hidden, first[:, 0])[None]
        out, end = torch.gru(
            items, start, list(cell.parameters()), True, 1, 0.0, cell.training, False, True
        )
        return out, end[0]
    after, V = [], items.shape[-1]
    recur, bias = cell.weight_hh.t(), cell.bias_hh
    for t, gate in enumerate(F.linear(items, cell.weight_ih, cell.bias_ih).unbind(1)):
        h = _cleared(hidden, first[:, t])
        own = torch.addmm(bias, h, recur)
        r, z = torch.sigmoid(gate[:, : 2 * V] + own[:, : 2 * V]).chunk(2, dim=1)
        n = torch.tanh(gate[:, 2 * V :] + r * own[:, 2 * V :])
        hidden = where_rows(valid[:, t], n + z * (h - n), hidden)
        after.append(hidden)
    return torch.stack(after, dim=1), hidden


def before_ticks(after: Tensor, start: Tensor, first: Tensor) -> Tensor:
    """Returns the hidden vector before each tick, [B, T, V], from those after and the first."""
    before = torch.cat([start[:, None], after[:, :-1]], dim=1)
    return torch.where(first[..., None], 0.0, before)


def counts_after(count: Tensor, is_first: Tensor, valid: Tensor) -> Tensor:
    """Returns int64 [B]: valid ticks since the last reset, `count` of them before the segment."""
    ticks = valid.shape[1]
    tick = torch.arange(ticks, device=valid.device)
    begun = torch.where(is_first & valid, tick, -1).amax(dim=1)
    added = (valid & (tick >= begun[:, None])).sum(dim=1)
    return torch.where(begun >= 0, added, count + added)


def _is_plain(first: Tensor, valid: Tensor) -> bool:
    """Whether torch's kernels can run the segment; looks at the data, so on a CPU alone."""
    return looks_at_data(valid) and bool(valid.all()) and not bool(first[:, 1:].any())


def _cleared(state: Tensor, rows: Tensor) -> Tensor:
    return state.masked_fill(rows[:, None], 0.0)
