"""Recurrent tokens: each token that is seen has a file of its own, kept up to date.

A bank keeps what was seen at many ticks, and a read has to find out what that means by now: which
cup holds the ball after four swaps, which pads were pressed already. Here that is worked out when
it happens. A file has two parts: the token as it was last seen, and what is known of it. At each
tick files are dealt out among what is seen, each to one thing: its own, or that of what has moved
here. Then what is seen of it, what is seen beside it and what is known of other things is added. So
memory is as large as two ticks, however long the episode; where a thing was last stays known while
it is out of sight.

Shape letters: B rows, T observation ticks, N tokens of all streams together, V width of a file,
R rows of the flattened batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError
from embodied.core.types import State, Streams
from embodied.memory.base import Memory, Pending, StreamShapes, where_rows
from embodied.memory.vector import StateSpec, check_state
from embodied.nn.attention import RetrievalBlock, masked_score
from embodied.nn.rows import chosen_rows, looks_at_data, on_grid

SPANS = 1.0, 64.0
"""Ticks over which knowledge fades at the start, spread evenly over its channels."""
ALIKE = 80.0
"""Score between equal tokens of unit-scale channels at the start, when they are asked whether they
are the same thing. Places are a quarter of the channels: one that is in its place outweighs one
that is far off and else the same by e^20."""
STAYS = 2.0
"""What a token's own file has ahead of others at the start: less than being in place is worth, so
what has moved to another row of the table is followed from the first step on."""
ROUNDS = 5
"""Rounds in which files are shared out, by rows and by columns."""


class Files(NamedTuple):
    """The state of a memory: ``last`` and ``known`` [B, N, V], ``opened`` bool [B, N]."""

    last: Tensor
    known: Tensor
    opened: Tensor


@dataclasses.dataclass
class RecurrentTokensConfig:
    """Options of recurrent tokens.

    Attributes:
      width: V; 0 for the width of the widest stream. Streams of another width are projected.
      heads: Attention heads, within a tick and of reads; they divide V.
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

    State: ``last`` [B, N, V], the token as it was last seen; ``known`` [B, N, V], what is known
    of it; ``opened`` bool [B, N].

    Args:
      streams: Stream name -> (N, D).
      config: Options.

    Source: our own. Gated recurrent units with weights shared over entities as in recurrent
    entity networks (Henaff et al., arXiv 1612.03969); gates that start with many time spans as in
    chrono initialisation (Tallec and Ollivier, arXiv 1804.11188); files that are dealt out by
    Sinkhorn normalisation as in Mena et al. (arXiv 1802.08665).
    """

    config_class = RecurrentTokensConfig
    stream_of: Tensor

    def __init__(self, streams: StreamShapes, config: RecurrentTokensConfig | None = None) -> None:
        super().__init__(streams, capacity=0)
        self.config = config = config or RecurrentTokensConfig()
        widths = [width for _, width in self.streams.values()]
        if config.width < 0:
            raise ConfigError(f"memory.width must be >= 0, got {config.width}")
        self.width = config.width or max(widths)
        sizes = [tokens for tokens, _ in self.streams.values()]
        self.tokens = sum(sizes)
        of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        self.register_buffer("stream_of", of, persistent=False)
        self.into = nn.ModuleDict({n: _map(d, self.width) for n, (_, d) in self.streams.items()})
        self.out = nn.ModuleDict({n: _map(self.width, d) for n, (_, d) in self.streams.items()})
        self.beside = RetrievalBlock(self.width, config.heads)
        self.open = nn.Linear(self.width, self.width)
        self.ask = nn.Linear(self.width, self.width)
        self.recognise = nn.Linear(self.width, self.width)
        self.stays = nn.Linear(self.width, 1)
        self.before = RetrievalBlock(self.width, config.heads)
        self.cell = nn.GRUCell(3 * self.width, self.width)
        self.join = nn.Linear(self.width, self.width, bias=False)
        self.kind = nn.Parameter(torch.zeros(2, 1, self.width))
        self.reader = RetrievalBlock(self.width, config.heads)
        self._begin()

    def _begin(self) -> None:
        """Starts with files of the first look, which follow a thing and fade at many rates."""
        eye, keep = torch.eye(self.width), slice(self.width, 2 * self.width)
        with torch.no_grad():
            for linear in (self.ask, self.recognise):
                linear.weight.copy_(eye * math.sqrt(ALIKE / self.width))
                nn.init.zeros_(linear.bias)
            self.join.weight.copy_(eye / 2)
            nn.init.zeros_(self.stays.weight)
            nn.init.constant_(self.stays.bias, STAYS)
            self.open.weight.mul_(0.1).add_(eye)
            nn.init.zeros_(self.open.bias)
            self.cell.weight_ih[2 * self.width :, : self.width].add_(eye)
            spans = torch.rand(self.width) * (SPANS[1] - SPANS[0]) + SPANS[0]
            self.cell.bias_ih[keep] = spans.log()
            nn.init.zeros_(self.cell.bias_hh[keep])

    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns files that are not opened; a capacity has no meaning here."""
        files = self.kind.new_zeros(batch, self.tokens, self.width)
        opened = torch.zeros(batch, self.tokens, dtype=torch.bool, device=files.device)
        return Files(files, files.clone(), opened)._asdict()

    def read(
        self, query: Streams, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Streams, Pending]:
        """Each token reads the files that are like it.

        Raises:
          SpecMismatch: For a state of another memory, size or dtype.
        """
        self._check(state, len(reset))
        files = _cleared(Files(*(state[name] for name in Files._fields)), reset)
        return self._read(query, files), {"reset": reset, "files": files}

    def write(self, pending: Pending, item: Streams, time_s: Tensor, state: State) -> State:
        """Brings the files of the tokens that are seen up to date."""
        seen, present = self._taken(item)
        now = seen, self._beside(seen, present), present
        return self._advance(*now, pending["files"], self.stream_of)._asdict()

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
        whole = Files(*(state[name] for name in Files._fields))
        # Files that stay closed throughout tell nobody anything.
        ever = whole.opened.any(dim=0) | present.flatten(0, 1).any(dim=0)
        kept = chosen_rows(ever, looks_at_data(use))
        seen, present = seen.index_select(2, kept), present.index_select(2, kept)
        beside = self._beside(seen, present)
        files = Files(*(part.index_select(1, kept) for part in whole))
        stream_of = self.stream_of.index_select(0, kept)
        before: list[Files] = []
        for t in range(ticks):
            files = _cleared(files, first[:, t])
            before.append(files)
            now = seen[:, t], beside[:, t], present[:, t]
            files = self._advance(*now, files, stream_of)
        rows = chosen_rows(use.flatten(), looks_at_data(use))

        def at(tensor: Tensor) -> Tensor:
            return tensor.flatten(0, 1)[rows]

        known = Files(*(at(torch.stack(parts, dim=1)) for parts in zip(*before, strict=True)))
        read = self._read({name: at(tensor) for name, tensor in items.items()}, known)
        values = {
            name: torch.where(use[..., None, None], on_grid(read[name], rows, batch, ticks), tensor)
            for name, tensor in items.items()
        }
        after = Files(*(w.index_copy(1, kept, p) for w, p in zip(whole, files, strict=True)))
        return values, after._asdict()

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
        self, seen: Tensor, beside: Tensor, present: Tensor, files: Files, stream_of: Tensor
    ) -> Files:
        """Brings files up to date with what is seen, [B, N, V], without autocast."""
        with torch.autocast(seen.device.type, enabled=False):
            seen, beside = seen.to(files.last.dtype), beside.to(files.last.dtype)
            fresh = (present & ~files.opened)[..., None]
            known = torch.where(fresh, torch.tanh(self.open(seen)), files.known)
            opened = files.opened | present
            before = _attend(self.before, seen, known, opened)
            taken = torch.cat([seen, beside, before], dim=-1).flatten(0, 1)
            # What is out of sight keeps its file, and what is seen first has moved from nowhere.
            both = present & files.opened
            moved = torch.bmm(self._whose(seen, both, files.last, stream_of), known)
            after = self.cell(taken, moved.flatten(0, 1)).view_as(known)
            there = present[..., None]
            return Files(
                torch.where(there, seen, files.last),
                torch.where(there, after, known),
                opened,
            )

    def _whose(self, seen: Tensor, both: Tensor, last: Tensor, stream_of: Tensor) -> Tensor:
        """Returns the share [B, N, N] that each token has in each file; both sum to about one.

        Files change hands among those of a stream (``stream_of`` [N]) that are seen and were
        seen before (`both` [B, N]); others stay with their token.
        """
        own = torch.eye(seen.shape[1], dtype=seen.dtype, device=seen.device)
        score = torch.bmm(self.ask(seen), self.recognise(last).transpose(1, 2))
        score = score + self.stays(seen) * own
        same = stream_of[:, None] == stream_of
        among = (both[:, :, None] & both[:, None] & same) | (own > 0)
        score = torch.where(among, score, masked_score(score.dtype))
        # Each thing has one file and each file one thing (Sinkhorn).
        for _ in range(ROUNDS):
            score = score.log_softmax(dim=1).log_softmax(dim=2)
        return score.exp()

    def _read(self, query: Streams, files: Files) -> Streams:
        """Returns what tokens read of the files of R rows; themselves where none is open."""
        asked = torch.cat([self.into[name](query[name]) for name in self.streams], dim=-2)
        # What is known of a thing is found by where it was last, and by itself.
        last = files.last + self.join(files.known)
        parts = (last + self.kind[0], files.known + self.kind[1])
        both, opened = torch.cat(parts, dim=1).to(asked.dtype), files.opened
        read = _attend(self.reader, asked, both, opened.repeat(1, 2))
        found, values = opened.any(dim=1), {}
        parts = read.split([tokens for tokens, _ in self.streams.values()], dim=-2)
        for name, part in zip(self.streams, parts, strict=True):
            value = self.out[name](part).to(query[name].dtype)
            values[name] = where_rows(found, value, query[name])
        return values

    def _check(self, state: State, batch: int) -> None:
        files, dtype = (self.tokens, self.width), self.kind.dtype
        wanted: StateSpec = {"last": (files, dtype), "known": (files, dtype)}
        check_state(state, {**wanted, "opened": ((self.tokens,), torch.bool)}, batch)


def _cleared(files: Files, reset: Tensor) -> Files:
    """Closes the files of the rows in `reset` [B]."""
    last, known = (
        where_rows(reset, torch.zeros_like(part), part) for part in (files.last, files.known)
    )
    return Files(last, known, files.opened & ~reset[:, None])


def _map(width: int, wanted: int) -> nn.Module:
    return nn.Identity() if width == wanted else nn.Linear(width, wanted)


def _attend(block: RetrievalBlock, query: Tensor, tokens: Tensor, live: Tensor) -> Tensor:
    """Returns [R, Q, V]: queries that read tokens [R, N, V] where `live` [R, N]."""
    keys, values = block.project(tokens[:, None], None)
    bias = torch.where(live, 0.0, masked_score(keys.dtype)).to(keys.dtype)
    return block.attend(query, keys, values, bias[:, None, None])
