"""Reads of hierarchical chunks: of a long past against full attention, and in learning.

A read is one query on one thread: hierarchical chunks (chunk 32, the best 8) against attention
over every past step with its keys and values cached, which is what a cache of a transformer does.
Learning is forward and backward over segments of 256 ticks in 64 rows, with an episode of 64
ticks on average; a unit is a tick of a row.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import Figure, Plan, Slice, repeat, take_turns
from embodied.memory import build_vector_memory
from embodied.nn.chunk_attention import ChunkAttention, choose

WIDTH, HEADS, CHUNK, TOP_K = 64, 4, 32, 8
PASTS = {"1k": 1_024, "8k": 8_192, "65k": 65_536, "500k": 524_288}
"""Past steps N that a read looks back on."""

MEMORY = {
    "heads": HEADS,
    "chunk": CHUNK,
    "window": CHUNK,
    "top_k": TOP_K,
    "capacity": 32,
    "detach": True,
}
ROWS, TICKS, EPISODE = 64, 256, 64
READS = 0.03
"""Share of the ticks that read the chunks where reads are masked: about two an episode."""

ROUTES = {
    "every_tick": ({}, "chunks read at every tick"),
    "masked": ({"masked": True}, f"chunks read at {READS:.0%} of the ticks"),
    "recorded": (
        {"masked": True, "recorded": True},
        "the same, those ticks alone wanted, stored vectors from a record",
    ),
}
"""Name -> options of `learner`, and what it is."""


def measure(plan: Plan) -> list[Figure]:
    """Returns all figures of reads."""
    return [*reads(plan), *learning(plan)]


# ---- one read ---------------------------------------------------------------------------


def reads(plan: Plan) -> Iterator[Figure]:
    """Yields reads a second of N past steps, chunks against the faster form of full attention."""
    for name, past in PASTS.items():
        torch.manual_seed(0)
        rivals = {"chunks": chunk_read(past), **full_reads(past)}
        rates = take_turns({key: repeat(read) for key, read in rivals.items()}, plan)
        chunks = rates.pop("chunks")
        best = max(rates, key=lambda key: statistics.median(rates[key]))
        yield Figure(
            f"hcam_vs_full_{name}",
            chunks,
            rates[best],
            "reads/s",
            f"one query of {past:,} past steps, width {WIDTH}, against full attention ({best})",
        )


@torch.inference_mode()
def chunk_read(past: int) -> Callable[[], Tensor]:
    """Returns a read of `past` steps in chunks, as a step of acting does it: [1, 1, D]."""
    block = ChunkAttention(WIDTH, HEADS, CHUNK).eval()
    contents = torch.randn(1, past // CHUNK, CHUNK, WIDTH)
    keys, query = contents.mean(dim=2), torch.randn(1, 1, WIDTH)
    number, row = torch.arange(past // CHUNK)[None], torch.tensor([0])
    live = torch.ones(1, 1, past // CHUNK, dtype=torch.bool)

    @torch.inference_mode()
    def read() -> Tensor:
        choice = choose(block.relevance(query, keys), live, number, TOP_K, "topk")
        return block.gather(query, contents, choice, row)[0]

    return read


@torch.inference_mode()
def full_reads(past: int) -> dict[str, Callable[[], Tensor]]:
    """Returns reads of `past` steps by full attention in two forms; keys and values are cached."""
    query_map, out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
    keys, values = (torch.randn(1, HEADS, past, WIDTH // HEADS) for _ in range(2))
    query, size = torch.randn(1, 1, WIDTH), WIDTH // HEADS

    def asked() -> Tensor:
        return query_map(query).view(1, 1, HEADS, size).transpose(1, 2)

    @torch.inference_mode()
    def matmul() -> Tensor:
        weights = torch.softmax(asked() @ keys.transpose(2, 3) / size**0.5, dim=-1)
        return out((weights @ values).transpose(1, 2).reshape(1, 1, WIDTH))

    @torch.inference_mode()
    def fused() -> Tensor:
        read = F.scaled_dot_product_attention(asked(), keys, values)
        return out(read.transpose(1, 2).reshape(1, 1, WIDTH))

    return {"matmul": matmul, "fused": fused}


# ---- learning ---------------------------------------------------------------------------


def learning(plan: Plan, rows: int = ROWS, ticks: int = TICKS) -> Iterator[Figure]:
    """Yields learned ticks a second of the memory alone, by what is read and what is kept."""
    rivals = {name: learner(rows, ticks, **options) for name, (options, _) in ROUTES.items()}
    for name, rates in take_turns(rivals, plan).items():
        yield Figure(f"learn_ticks_{name}", rates, None, "ticks/s", ROUTES[name][1])


def learner(rows: int, ticks: int, masked: bool = False, recorded: bool = False) -> Slice:
    """Returns forward and backward over a segment of the memory; units are ticks of rows."""
    torch.manual_seed(0)
    memory = build_vector_memory("hierarchical_chunks", WIDTH, MEMORY)
    assert memory is not None
    items = torch.randn(rows, ticks, WIDTH, requires_grad=True)
    first, valid = torch.rand(rows, ticks) < 1 / EPISODE, torch.ones(rows, ticks).bool()
    mask = torch.rand(rows, ticks) < READS if masked else None
    options: dict[str, object] = {"read_mask": mask}
    if recorded:
        shapes = memory.record_spec().items()
        options["record"] = {name: torch.randn(rows, ticks, *shape) for name, shape in shapes}
        options["wanted"] = mask
    time_s, start = torch.arange(ticks).expand(rows, ticks).float(), memory.initial(rows)

    def update() -> None:
        memory.zero_grad()
        value, _ = memory.unroll(items, time_s, start, first, valid, **options)
        value.square().mean().backward()

    return repeat(update, rows * ticks)
