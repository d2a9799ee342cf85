"""Recurrent tokens: each token that is seen has a hidden vector of its own, kept up to date.

A bank keeps what was seen at many ticks, and a read has to find out what that means by now: which
cup holds the ball after four swaps, which pads were pressed already. Here that is worked out when
it happens. Every token opens a file when it is first seen; at each tick it takes in what is seen
of its token now, what is seen beside that, and what the files knew so far of what is like it: its
own, or another one's that has moved here. So memory is as large as what is seen at one tick,
however long the episode.

Shape letters: B rows, T observation ticks, N tokens of all streams together, V width of a file,
R rows of the flattened batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.types import State, Streams
from embodied.memory.base import Memory, Pending, StreamShapes, where_rows
from embodied.nn.attention import RetrievalBlock, masked_score
from embodied.nn.rows import chosen_rows, looks_at_data, on_grid

SPANS = 1.0, 64.0
"""Ticks over which files forget at the start, spread evenly over their channels."""


@dataclasses.dataclass
class RecurrentTokensConfig:
    """Options of recurrent tokens.

    Attributes:
      width: V; 0 for the width of the widest stream. Streams of another width are projected.
      heads: Attention heads of exchange and reads; they divide V.
      detach: Stored items get no gradient; the recurrence itself still does.
    """

    width: int = 0
    heads: int = 4
    detach: bool = False


class RecurrentTokensMemory(Memory):
    """Files of tokens; see the module docstring.

    A token i of a stream always writes to file i of that stream: so the table of entities has a
    file for each thing, and a map of image tokens one for each place of the picture. Tokens that
    are exact zeros stand for nothing: their files stay as they are.

    State: ``files`` [B, N, V], and ``opened`` bool [B, N].

    Args:
      streams: Stream name -> (N, D).
      config: Options.

    Source: our own. Gated recurrent units with weights shared over entities as in recurrent
    entity networks (Henaff et al., arXiv 1612.03969); gates that start with many time spans as in
    chrono initialisation (Tallec and Ollivier, arXiv 1804.11188).
    """

    config_class = RecurrentTokensConfig

    def __init__(self, streams: StreamShapes, config: RecurrentTokensConfig | None = None) -> None:
        super().__init__(streams, capacity=0)
        self.config = config = config or RecurrentTokensConfig()
        widths = [width for _, width in self.streams.values()]
        if config.width < 0:
            raise ConfigError(f"memory.width must be >= 0, got {config.width}")
        self.width = config.width or max(widths)
        self.into = nn.ModuleDict({n: _map(d, self.width) for n, (_, d) in self.streams.items()})
        self.out = nn.ModuleDict({n: _map(self.width, d) for n, (_, d) in self.streams.items()})
        self.open = nn.Linear(self.width, self.width)
        self.beside = RetrievalBlock(self.width, config.heads)
        self.before = RetrievalBlock(self.width, config.heads)
        self.cell = nn.GRUCell(3 * self.width, self.width)
        self.reader = RetrievalBlock(self.width, config.heads)
        self._begin()

    def _begin(self) -> None:
        """Starts with files that hold what was first seen, and forget at many rates."""
        eye = torch.eye(self.width)
        with torch.no_grad():
            self.open.weight.mul_(0.1).add_(eye)
            nn.init.zeros_(self.open.bias)
            self.cell.weight_ih[2 * self.width :, : self.width].add_(eye)
            keep = slice(self.width, 2 * self.width)
            self.cell.bias_ih[keep] = (
                torch.rand(self.width).mul(SPANS[1] - SPANS[0]).add(SPANS[0]).log()
            )
            nn.init.zeros_(self.cell.bias_hh[keep])

    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns files that are not opened; a capacity has no meaning here."""
        like, tokens = self.open.weight, sum(n for n, _ in self.streams.values())
        return {
            "files": like.new_zeros(batch, tokens, self.width),
            "opened": torch.zeros(batch, tokens, dtype=torch.bool, device=like.device),
        }

    def read(
        self, query: Streams, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Streams, Pending]:
        """Each token reads the files that are like it.

        Raises:
          SpecMismatch: For a state of another size.
        """
        self._check(state, len(reset))
        files = where_rows(reset, torch.zeros_like(state["files"]), state["files"])
        opened = state["opened"] & ~reset[:, None]
        pending: Pending = {"reset": reset, "files": files, "opened": opened}
        return self._read(query, files, opened), pending

    def write(self, pending: Pending, item: Streams, time_s: Tensor, state: State) -> State:
        """Brings the files of the tokens that are seen up to date."""
        seen, present = self._taken(item)
        now = seen, self._beside(seen, present), present
        files, opened = self._advance(*now, pending["files"], pending["opened"])
        return {"files": files, "opened": opened}

    def unroll(
        self,
        items: Streams,
        time_s: Tensor,
        state: State,
        is_first: Tensor,
        valid: Tensor,
        read_mask: Tensor | None = None,
        item_of: Callable[[Streams, Streams], Streams] | None = None,
    ) -> tuple[Streams, State]:
        """Runs T ticks; see the base class.

        Without `item_of` files don't depend on reads, so these are done together at the end.
        """
        if item_of is not None:
            return super().unroll(items, time_s, state, is_first, valid, read_mask, item_of)
        batch, ticks = valid.shape
        self._check(state, batch)
        first, use = is_first & valid, valid if read_mask is None else valid & read_mask
        seen, present = self._taken(items)
        present = present & valid[..., None]
        whole = files, opened = state["files"], state["opened"]
        # Files that stay closed throughout tell nobody anything.
        kept = chosen_rows(opened.any(dim=0) | present.flatten(0, 1).any(dim=0), looks_at_data(use))
        seen, present = seen.index_select(2, kept), present.index_select(2, kept)
        beside = self._beside(seen, present)
        files, opened = files.index_select(1, kept), opened.index_select(1, kept)
        before: list[tuple[Tensor, Tensor]] = []
        for t in range(ticks):
            files = where_rows(first[:, t], torch.zeros_like(files), files)
            opened = opened & ~first[:, t, None]
            before.append((files, opened))
            now = seen[:, t], beside[:, t], present[:, t]
            files, opened = self._advance(*now, files, opened)
        rows = chosen_rows(use.flatten(), looks_at_data(use))

        def at(tensor: Tensor) -> Tensor:
            return tensor.flatten(0, 1)[rows]

        known = [torch.stack(parts, dim=1) for parts in zip(*before, strict=True)]
        queries = {name: at(tensor) for name, tensor in items.items()}
        read = self._read(queries, *(at(part) for part in known))
        values = {
            name: torch.where(use[..., None, None], on_grid(read[name], rows, batch, ticks), tensor)
            for name, tensor in items.items()
        }
        after = (files, opened)
        files, opened = (w.index_copy(1, kept, part) for w, part in zip(whole, after, strict=True))
        return values, {"files": files, "opened": opened}

    def _taken(self, item: Streams) -> tuple[Tensor, Tensor]:
        """Returns what is stored of all streams, [..., N, V], and which tokens are there."""
        stored = {n: item[n].detach() if self.config.detach else item[n] for n in self.streams}
        parts = [self.into[name](tensor) for name, tensor in stored.items()]
        present = [(tensor != 0).any(dim=-1) for tensor in stored.values()]
        return torch.cat(parts, dim=-2), torch.cat(present, dim=-1)

    def _beside(self, seen: Tensor, present: Tensor) -> Tensor:
        """Returns what each token [..., N, V] reads of those that are there at the same tick."""
        flat = seen.flatten(0, -3)
        return _attend(self.beside, flat, flat, present.flatten(0, -2)).view_as(seen)

    def _advance(
        self, seen: Tensor, beside: Tensor, present: Tensor, files: Tensor, opened: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Brings files [B, N, V] up to date with what is seen [B, N, V], without autocast."""
        with torch.autocast(seen.device.type, enabled=False):
            seen, beside = seen.to(files.dtype), beside.to(files.dtype)
            files = torch.where((present & ~opened)[..., None], torch.tanh(self.open(seen)), files)
            opened = opened | present
            before = _attend(self.before, seen, files, opened)
            taken = torch.cat([seen, beside, before], dim=-1).flatten(0, 1)
            after = self.cell(taken, files.flatten(0, 1)).view_as(files)
            return torch.where(present[..., None], after, files), opened

    def _read(self, query: Streams, files: Tensor, opened: Tensor) -> Streams:
        """Returns what tokens read of files [R, N, V]; themselves where no file is open."""
        asked = torch.cat([self.into[name](query[name]) for name in self.streams], dim=-2)
        read = _attend(self.reader, asked, files.to(asked.dtype), opened)
        found, values = opened.any(dim=1), {}
        parts = read.split([tokens for tokens, _ in self.streams.values()], dim=-2)
        for name, part in zip(self.streams, parts, strict=True):
            value = self.out[name](part).to(query[name].dtype)
            values[name] = where_rows(found, value, query[name])
        return values

    def _check(self, state: State, batch: int) -> None:
        for name, fresh in self.initial(1).items():
            if name not in state or state[name].shape != (batch, *fresh.shape[1:]):
                got = tuple(state[name].shape) if name in state else f"only {sorted(state)}"
                raise SpecMismatch(
                    f"state[{name!r}] of recurrent_tokens must be of shape "
                    f"{(batch, *fresh.shape[1:])}, got {got}; take it from initial() of this memory"
                )


def _map(width: int, wanted: int) -> nn.Module:
    return nn.Identity() if width == wanted else nn.Linear(width, wanted)


def _attend(block: RetrievalBlock, query: Tensor, tokens: Tensor, live: Tensor) -> Tensor:
    """Returns [R, Q, V]: queries that read tokens [R, N, V] where `live` [R, N]."""
    keys, values = block.project(tokens[:, None], None)
    bias = torch.where(live, 0.0, masked_score(keys.dtype)).to(keys.dtype)
    return block.attend(query, keys, values, bias[:, None, None])
