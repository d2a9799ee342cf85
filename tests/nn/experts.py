"""Small action experts that several test files share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embodied.nn.action_head import ActionHead, ActionHeadConfig, build_action_head
from embodied.nn.dit import ActionDiT, DiTConfig

A, K, C, P, N = 3, 4, 6, 5, 8
"""Action size, horizon, condition width, perceptual width and perceptual tokens of small heads."""


def expert(perception: str = "live", depth: int = 2, hidden: int = 32) -> ActionDiT:
    torch.manual_seed(0)
    return ActionDiT(DiTConfig(depth, hidden, 4, perception), A, K, C, P)


def head(kind: str = "ddim", alive: bool = True, **options: object) -> ActionHead:
    """A small head; `alive` gives the last layer, zero at the start, something to say."""
    torch.manual_seed(0)
    made = build_action_head(ActionHeadConfig(kind, DiTConfig(2, 32, 4), **options), A, K, C, P)
    if alive:
        with torch.no_grad():
            for block in made.dit.blocks:
                nn.init.normal_(block.cross.out.weight, std=0.1)
            nn.init.normal_(made.dit.out.weight, std=0.1)
    return made


def inputs(rows: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Chunk or noise, condition, perceptual tokens."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows, K, A), (rows, C), (rows, N, P)]
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)
