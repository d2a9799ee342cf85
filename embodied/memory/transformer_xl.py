"""Transformer-XL and its gated form: self-attention over a window of each layer's last inputs.

Shape letters: B rows, T observation ticks, R asked ticks, A past ticks of a window, D width.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError
from embodied.core.types import State
from embodied.memory.adapter import VectorAdapter
from embodied.memory.base import StreamShapes
from embodied.memory.layered import Layer, LayeredMemory, Part, Tick, Window, feed_forward
from embodied.memory.packed import Asked, Ticks


@dataclasses.dataclass
class TransformerXLConfig:
    """Options of the window transformer.

    Attributes:
      width: Size of pooled items and of the layers.
      capacity: Past ticks that each layer keeps; a tick attends to them and to itself.
      layers: Layers; each reaches `capacity` ticks further back.
      heads: Attention heads; divide the width.
      ffn_ratio: Hidden size of the feed-forward layers over the width.
      gated: A gate in place of each residual connection (GTrXL).
      gate_bias: Of the gate towards what came in; 2 starts near the identity (paper), public
        configurations take 0.
      detach: Past inputs get no gradient. Published: those from before the segment alone, which
        is up to who carries the state.
      qk_init: ``"equal"`` or ``"independent"`` (published); see `WindowAttention`.
      pool_queries: Attention maps a stream when tokens are pooled.
      time_encoding: Adds an encoding of the time to what comes in; positions count ticks.
      time_scale_hz: Units of that encoding in a second.
    """

    width: int = 128
    capacity: int = 63
    layers: int = 2
    heads: int = 4
    ffn_ratio: int = 4
    gated: bool = False
    gate_bias: float = 2.0
    detach: bool = False
    qk_init: str = "equal"
    pool_queries: int = 4
    time_encoding: bool = True
    time_scale_hz: float = 1.0


@dataclasses.dataclass
class GatedTransformerXLConfig(TransformerXLConfig):
    """Options of the gated window transformer; meanings as in `TransformerXLConfig`."""

    gated: bool = True


class Gate(nn.Module):
    """A gated connection: r = s(Wr y + Ur x), z = s(Wz y + Uz x - b), g = tanh(Wg y + Ug (r x)),
    result (1 - z) x + z g.

    Args:
      width: D.
      bias: b.

    Source: Stabilizing Transformers for Reinforcement Learning (arXiv 1910.06764), section 3.2.
    """

    def __init__(self, width: int, bias: float) -> None:
        super().__init__()
        self.new = nn.Linear(width, 3 * width)
        self.old = nn.Linear(width, 2 * width, bias=False)
        self.reset = nn.Linear(width, width, bias=False)
        for linear in (self.new, self.old, self.reset):
            for square in linear.weight.split(width):
                nn.init.xavier_uniform_(square)
        nn.init.zeros_(self.new.bias)
        with torch.no_grad():
            self.new.bias[width : 2 * width] = -bias

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Joins what came in, x, and what the layer made of it, y, of equal shapes."""
        new_r, new_z, new_g = self.new(torch.relu(y)).chunk(3, dim=-1)
        old_r, old_z = self.old(x).chunk(2, dim=-1)
        z = torch.sigmoid(new_z + old_z)
        g = torch.tanh(new_g + self.reset(torch.sigmoid(new_r + old_r) * x))
        return (1 - z) * x + z * g


class Residual(nn.Module):
    """x + y, where a gated transformer has a `Gate`."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Adds tensors of equal shapes."""
        return x + y


class WindowLayer(Layer):
    """Attention over the window, then a feed-forward layer, both behind a norm.

    Args:
      config: Options.
    """

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.window = Window(
            config.width, config.heads, config.capacity + 1, config.detach, config.qk_init
        )
        self.ffn = feed_forward(config.width, config.ffn_ratio)
        self.join, self.join_ffn = (
            Gate(config.width, config.gate_bias) if config.gated else Residual() for _ in range(2)
        )

    def initial(self, batch: int, capacity: int, like: Tensor) -> Part:
        """Returns an empty window of `capacity` past ticks."""
        if capacity < 1:
            raise ConfigError(
                f"memory capacity must be >= 1 past tick, got {capacity}; "
                "choose memory=none for a policy without memory"
            )
        width = self.window.attention.out.in_features
        return {"window": like.new_zeros(batch, capacity, width)}

    def step(self, x: Tensor, part: Part, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """Attends over the window."""
        tokens, live = self.window.tokens(x, part["window"], tick)
        value, attention = self.window(tokens, live)
        h = self.join(x, value)
        kept = {"tokens": tokens, "live": live, "attention": attention}
        return self.join_ffn(h, self.ffn(h)), kept

    def store(self, kept: dict[str, Any], part: Part, tick: Tick, donate: bool) -> Part:
        """Moves the window on."""
        return {"window": self.window.after(kept["tokens"], part["window"])}

    def unroll(
        self,
        x: Tensor,
        stored: Tensor | None,
        part: Part,
        ticks: Ticks,
        asked: Asked | None,
        look: Tensor | None,
    ) -> tuple[Tensor, Part]:
        """Attends over the windows of all asked ticks."""
        h = self.join(x, self.window.unroll(x, stored, part["window"], ticks, asked))
        window = self.window.end(x if stored is None else stored, part["window"], ticks)
        return self.join_ffn(h, self.ffn(h)), {"window": window}

    def explain(self, kept: dict[str, Any], part: Part, tick: Tick) -> dict[str, Tensor]:
        """Returns what `Window.explain` does."""
        return self.window.explain(kept, tick)


class TransformerXL(LayeredMemory):
    """A window transformer over vectors. Reads cost the same at every tick, masked or not.

    State: ``count`` int64 [B], and ``<i>.window`` [B, A, D] of layer i. Capacity is A.

    Args:
      config: Options.

    Source: Transformer-XL (arXiv 1901.02860); norms in front and gates: GTrXL (arXiv 1910.06764).
    """

    def __init__(self, config: TransformerXLConfig) -> None:
        layers = [WindowLayer(config) for _ in range(config.layers)]
        super().__init__(
            config.width, layers, config.capacity, config.time_encoding, config.time_scale_hz
        )

    def capacity_of(self, state: State) -> int | None:
        """Returns the past ticks that the state's windows hold."""
        return int(state["0.window"].shape[1])

    def nbytes_filled(self, state: State) -> int:
        """Returns the bytes of the ticks in the windows, and of the counter."""
        size = state["0.window"].element_size() * self.width
        ticks = int(state["count"].clamp(max=self.capacity_of(state)).sum())
        return len(self.layers) * ticks * size + 8 * len(state["count"])


class TransformerXLMemory(VectorAdapter):
    """The window transformer behind the contract of token streams.

    Args:
      streams: Stream name -> (N, D).
      config: Options.
    """

    config_class = TransformerXLConfig

    def __init__(self, streams: StreamShapes, config: TransformerXLConfig | None = None) -> None:
        config = config or self.config_class()
        inner = TransformerXL(config)
        super().__init__(streams, inner, config.pool_queries, capacity=config.capacity)
        self.config = config


class GatedTransformerXLMemory(TransformerXLMemory):
    """`TransformerXLMemory` with gates."""

    config_class = GatedTransformerXLConfig
