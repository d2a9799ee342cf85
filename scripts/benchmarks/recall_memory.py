"""Memories of vectors: reads of a long past, learning, acting, and the bytes they keep.

A read is one query on one thread: hierarchical chunks (chunk 32, the best 8) against attention
over every past step with its keys and values cached, which is what a cache of a transformer does.
Learning is forward and backward over segments of 256 ticks in 64 rows, with an episode of 64
ticks on average; a unit is a tick of a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import Figure, Plan, Slice, milliseconds, repeat, take_turns
from embodied.core.types import State
from embodied.memory.gru import GRUVector
from embodied.memory.hierarchical_chunks import HierarchicalChunks, HierarchicalChunksConfig
from embodied.memory.lstm import LSTMVector
from embodied.memory.transformer_xl import TransformerXL, TransformerXLConfig
from embodied.memory.vector import VectorMemory
from embodied.nn.chunk_attention import ChunkAttention, choose

WIDTH, HEADS, CHUNK, TOP_K, LAYERS = 64, 4, 32, 8, 2
PASTS = {"1k": 1_024, "8k": 8_192, "65k": 65_536, "500k": 524_288}
"""Past steps N that a read looks back on."""

ROWS, TICKS, EPISODE = 64, 256, 64
READS = 0.03
"""Share of the ticks that read the chunks where reads are masked: about two an episode."""

LAYERED = {"width": WIDTH, "heads": HEADS, "layers": LAYERS, "time_encoding": False}
MEMORIES: dict[str, Callable[[], VectorMemory]] = {
    "lstm": lambda: LSTMVector(WIDTH, time_encoding=False),
    "gru": lambda: GRUVector(WIDTH, time_encoding=False, reads_present=True),
    "transformer_xl": lambda: TransformerXL(TransformerXLConfig(**LAYERED, capacity=CHUNK - 1)),
    "gated_transformer_xl": lambda: TransformerXL(
        TransformerXLConfig(**LAYERED, capacity=CHUNK - 1, gated=True)
    ),
    "transformer_xl_256": lambda: TransformerXL(TransformerXLConfig(**LAYERED, capacity=255)),
    "hierarchical_chunks": lambda: HierarchicalChunks(
        HierarchicalChunksConfig(
            **LAYERED, chunk=CHUNK, window=CHUNK, top_k=TOP_K, capacity=32, detach=True
        )
    ),
}
"""Memories compared, of equal width: a window of 32 but for one that has as many ticks as all."""


def measure(plan: Plan) -> list[Figure]:
    """Returns all figures."""
    torch.set_num_threads(1)
    return [*reads(plan), *learning(plan), *acting(plan), *sizes()]


# ---- one read ---------------------------------------------------------------------------


def reads(plan: Plan) -> Iterator[Figure]:
    """Yields reads a second of N past steps, chunks against full attention."""
    for name, past in PASTS.items():
        torch.manual_seed(0)
        rivals = {"chunks": chunk_read(past), **full_reads(past)}
        rates = take_turns({key: repeat(read) for key, read in rivals.items()}, plan)
        best = max((key for key in rates if key != "chunks"), key=lambda key: max(rates[key]))
        yield Figure(
            f"hcam_vs_full_{name}",
            rates["chunks"],
            rates[best],
            "reads/s",
            f"one query of {past:,} past steps, width {WIDTH}, against full attention ({best})",
        )


@torch.inference_mode()
def chunk_read(past: int) -> Callable[[], Tensor]:
    """Returns a read of `past` steps in chunks, as a step of acting does it."""
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


# ---- memories ---------------------------------------------------------------------------


def learning(plan: Plan, rows: int = ROWS, ticks: int = TICKS) -> Iterator[Figure]:
    """Yields learned ticks a second of every memory, and of chunks with masked reads."""
    rivals = {name: learner(build(name), rows, ticks) for name in MEMORIES}
    chunks = "hierarchical_chunks"
    rivals[f"{chunks}_masked"] = learner(build(chunks), rows, ticks, masked=True)
    rivals[f"{chunks}_recorded"] = learner(build(chunks), rows, ticks, masked=True, recorded=True)
    what = {
        f"{chunks}_masked": f"reads at {READS:.0%} of the ticks",
        f"{chunks}_recorded": "the same, those ticks alone wanted, stored vectors from a record",
    }
    for name, rates in take_turns(rivals, plan).items():
        text = what.get(name, "reads at every tick")
        yield Figure(f"learn_ticks_{name}", rates, None, "ticks/s", text)


def build(name: str) -> VectorMemory:
    """Returns a memory of `MEMORIES`, with the same weights each time."""
    torch.manual_seed(0)
    return MEMORIES[name]()


def learner(
    memory: VectorMemory, rows: int, ticks: int, masked: bool = False, recorded: bool = False
) -> Slice:
    """Returns whole updates without the optimizer; units are ticks of rows."""
    torch.manual_seed(0)
    items = torch.randn(rows, ticks, memory.width, requires_grad=True)
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


def acting(plan: Plan) -> Iterator[Figure]:
    """Yields milliseconds of a step with a full state, for one row and for many."""
    for rows in (1, ROWS):
        rates = take_turns({name: actor(build(name), rows) for name in MEMORIES}, plan)
        for name, values in rates.items():
            what = f"a step of {rows} row{'s' * (rows > 1)}, its state donated"
            yield Figure(f"step_ms_{rows}_{name}", milliseconds(values), None, "ms", what)


def actor(memory: VectorMemory, rows: int) -> Slice:
    """Returns steps of acting, begun with a memory that is as full as it gets."""
    state = filled(memory, rows)
    query, time_s, reset = torch.randn(rows, memory.width), torch.zeros(rows), torch.zeros(rows)

    def work(seconds: float) -> tuple[float, float]:
        nonlocal state
        calls, began = 0, time.perf_counter()
        with torch.no_grad():
            while (spent := time.perf_counter() - began) < seconds or not calls:
                _, state = memory.step(query, time_s, state, reset.bool(), donate=True)
                calls += 1
        return calls, spent

    return work


@torch.no_grad()
def filled(memory: VectorMemory, rows: int, ticks: int = 1100) -> State:
    """Returns the state after `ticks` random ticks of one episode."""
    items, time_s = torch.randn(rows, ticks, memory.width), torch.zeros(rows, ticks)
    valid = torch.ones(rows, ticks).bool()
    none = torch.zeros_like(valid)
    return memory.unroll(items, time_s, memory.initial(rows), none, valid, wanted=none)[1]


def sizes() -> Iterator[Figure]:
    """Yields bytes of state a row, and weights, of every memory."""
    for name in MEMORIES:
        memory = build(name)
        weights = sum(p.numel() for p in memory.parameters())
        what = f"bytes of state a row; {weights:,} weights"
        yield Figure(f"state_bytes_{name}", [float(memory.nbytes(1))], None, "bytes", what)
