"""Recurrent tokens: files of their own, kept while their token is away, alike for all tokens."""

import pytest
import torch

from embodied.core.errors import ConfigError, SpecMismatch
from embodied.memory import build_memory

STREAMS = {"entities": (5, 8), "cognitive": (1, 6)}


@pytest.fixture
def memory():
    torch.manual_seed(0)
    return build_memory("recurrent_tokens", STREAMS, {"heads": 2}).double().eval()


def ticks(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            name: torch.randn(2, *shape, dtype=torch.float64, generator=generator)
            for name, shape in STREAMS.items()
        }
        for _ in range(length)
    ]


def run(memory, items, state=None):
    state = state or memory.initial(2)
    values = []
    for t, item in enumerate(items):
        reset = torch.full((2,), t == 0)
        value, state = memory.step(item, torch.full((2,), 0.4 * t), state, reset)
        values.append(value)
    return values, state


def test_a_file_stays_as_it_is_while_its_token_is_away(memory):
    items = ticks(6)
    _, before = run(memory, items[:2])
    for item in items[2:]:
        item["entities"][:, 3] = 0.0
    state = before
    for item in items[2:]:
        keep = torch.zeros(2, dtype=torch.bool)
        _, state = memory.step(item, torch.zeros(2), state, keep)
    assert torch.equal(state["files"][:, 3], before["files"][:, 3])
    assert not torch.equal(state["files"][:, 2], before["files"][:, 2])
    # It is still read: without it the others would answer otherwise.
    closed = {**state, "opened": state["opened"].clone()}
    closed["opened"][:, 3] = False
    known, _ = memory.read(items[0], torch.zeros(2), state, torch.zeros(2, dtype=torch.bool))
    less, _ = memory.read(items[0], torch.zeros(2), closed, torch.zeros(2, dtype=torch.bool))
    assert not torch.allclose(known["entities"], less["entities"])


def test_a_token_that_was_never_there_opens_no_file(memory):
    items = ticks(3)
    for item in items:
        item["entities"][:, 4] = 0.0
    _, state = run(memory, items)
    assert not state["opened"][:, 4].any() and state["opened"][:, :4].all()
    assert not state["files"][:, 4].any()


def test_all_tokens_are_treated_alike(memory):
    """In another order of the table the same is known of each thing."""
    items, order = ticks(5), torch.tensor([3, 0, 4, 1, 2])
    moved = [{**item, "entities": item["entities"][:, order]} for item in items]
    values, state = run(memory, items)
    others, other = run(memory, moved)
    torch.testing.assert_close(others[-1]["entities"], values[-1]["entities"][:, order])
    torch.testing.assert_close(other["files"][:, :5], state["files"][:, :5][:, order])
    torch.testing.assert_close(others[-1]["cognitive"], values[-1]["cognitive"])


def test_memory_is_as_large_as_what_is_seen_at_one_tick(memory):
    _, short = run(memory, ticks(1))
    _, long = run(memory, ticks(20))
    files = 2 * 6 * 8 * 8 + 2 * 6
    assert memory.nbytes_filled(short) == memory.nbytes_filled(long) == memory.nbytes(2) == files


def test_files_begin_as_what_was_seen_and_fade_at_many_rates(memory):
    """At the start a channel keeps what it holds for between one and some sixty ticks."""
    bias = memory.cell.bias_ih[memory.width : 2 * memory.width]
    assert (bias >= 0).all() and (bias <= 4.2).all() and bias.max() - bias.min() > 1
    item = ticks(1)[0]["entities"]
    opened = torch.tanh(memory.open(item))
    alike = torch.nn.functional.cosine_similarity(opened, torch.tanh(item), dim=-1)
    assert (alike > 0.9).all()


def test_foreign_states_and_senseless_options_are_refused(memory):
    state = memory.initial(3)
    with pytest.raises(SpecMismatch, match=r"state\['files'\] of recurrent_tokens"):
        memory.step(ticks(1)[0], torch.zeros(2), state, torch.zeros(2, dtype=torch.bool))
    with pytest.raises(SpecMismatch, match="got only"):
        memory.step(ticks(1)[0], torch.zeros(2), {}, torch.zeros(2, dtype=torch.bool))
    with pytest.raises(ConfigError, match=r"memory\.width must be >= 0"):
        build_memory("recurrent_tokens", STREAMS, {"width": -1})
    with pytest.raises(ConfigError, match="heads must divide"):
        build_memory("recurrent_tokens", STREAMS, {"heads": 3})
