"""Recurrent tokens: files that stay while their token is away and follow what moves."""

import math

import pytest
import torch

from embodied.core.errors import ConfigError, SpecMismatch
from embodied.memory import build_memory
from embodied.nn.position import FourierFeatures

STREAMS = {"entities": (5, 8), "cognitive": (1, 6)}
FILES = ("last", "known")


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
    fresh, values = state is None, []
    state = memory.initial(2) if fresh else state
    for t, item in enumerate(items):
        reset = torch.full((2,), fresh and t == 0)
        value, state = memory.step(item, torch.full((2,), 0.4 * t), state, reset)
        values.append(value)
    return values, state


def test_a_file_stays_as_it_is_while_its_token_is_away_and_is_still_read(memory):
    items = ticks(6)
    _, before = run(memory, items[:2])
    for item in items[2:]:
        item["entities"][:, 3] = 0.0
    _, state = run(memory, items[2:], before)
    for part in FILES:
        assert torch.equal(state[part][:, 3], before[part][:, 3])
        assert not torch.equal(state[part][:, 2], before[part][:, 2])
    closed = {**state, "opened": state["opened"].clone()}
    closed["opened"][:, 3] = False
    keep = torch.zeros(2, dtype=torch.bool)
    known, _ = memory.read(items[0], torch.zeros(2), state, keep)
    less, _ = memory.read(items[0], torch.zeros(2), closed, keep)
    assert not torch.allclose(known["entities"], less["entities"])


def test_the_last_look_is_kept_exactly(memory):
    items = ticks(3)
    _, state = run(memory, items)
    assert torch.equal(state["last"][:, :5], items[-1]["entities"])


def test_a_token_that_was_never_there_opens_no_file(memory):
    items = ticks(3)
    for item in items:
        item["entities"][:, 4] = 0.0
    _, state = run(memory, items)
    assert not state["opened"][:, 4].any() and state["opened"][:, :4].all()
    assert not state["last"][:, 4].any() and not state["known"][:, 4].any()


def test_all_tokens_are_treated_alike(memory):
    """In another order of the table the same is known of each thing."""
    items, order = ticks(5), torch.tensor([3, 0, 4, 1, 2])
    moved = [{**item, "entities": item["entities"][:, order]} for item in items]
    values, state = run(memory, items)
    others, other = run(memory, moved)
    torch.testing.assert_close(others[-1]["entities"], values[-1]["entities"][:, order])
    for part in FILES:
        torch.testing.assert_close(other[part][:, :5], state[part][:, :5][:, order])
    torch.testing.assert_close(others[-1]["cognitive"], values[-1]["cognitive"])


def test_memory_is_as_large_as_two_ticks_however_long_the_episode(memory):
    _, short = run(memory, ticks(1))
    _, long = run(memory, ticks(20))
    files = 2 * (2 * 6 * 8 * 8 + 6)
    assert memory.nbytes_filled(short) == memory.nbytes_filled(long) == memory.nbytes(2) == files


def cups(width):
    """Returns what makes a table of cups that look the same, given their places on it."""
    place = FourierFeatures(3, width // 4, 0.1)
    shape = torch.nn.functional.layer_norm(torch.randn(width // 2), (width // 2,))
    looks = torch.cat([shape, torch.ones(width // 4)])

    def table(*xy):
        rows = [torch.cat([looks, place(torch.tensor([*at, 0.9]))]) for at in xy]
        return {"entities": torch.stack(rows)[None]}

    return table


def test_what_is_known_follows_a_thing_to_another_row_of_the_table():
    """Two cups that look the same swap places, and the rows go by place: so does what is known."""
    torch.manual_seed(0)
    width = 96
    memory = build_memory("recurrent_tokens", {"entities": (2, width)}).eval()
    table = cups(width)
    state, keep = memory.initial(1), torch.zeros(1, dtype=torch.bool)
    rest = (0.0, 0.0), (0.0, 0.3)
    _, state = memory.step(table(*rest), torch.zeros(1), state, keep)
    marks = torch.stack([torch.full((width,), -0.5), torch.full((width,), 0.5)])[None]
    state = {**state, "known": marks}
    with torch.no_grad():  # all is kept, nothing is taken in
        for part in memory.cell.parameters():
            part.zero_()
        memory.cell.bias_ih[width : 2 * width] = 50.0

    # The cups pass each other; what is known of each stays in the row that goes with it.
    for tick in range(1, 7):
        bow, share = 0.1 * math.sin(math.pi * tick / 7), tick / 7
        ways = (bow, 0.3 * share), (-bow, 0.3 * (1 - share))
        _, state = memory.step(table(*ways), torch.zeros(1), state, keep)
        torch.testing.assert_close(state["known"], marks, atol=0.1, rtol=0.0)
    # They rest, and the rows are those of the places again.
    _, state = memory.step(table(*rest), torch.zeros(1), state, keep)
    torch.testing.assert_close(state["known"], marks.flip(1), atol=0.1, rtol=0.0)


def test_each_file_goes_to_one_thing():
    """Two far cups trade rows past a third that lies nearer to both than they to each other."""
    torch.manual_seed(0)
    width = 96
    memory = build_memory("recurrent_tokens", {"entities": (3, width)}).eval()
    table = cups(width)
    with torch.no_grad():
        memory.stays.bias.zero_()  # as learnt where rows say nothing
    last = table((0.06, 0.1), (0.0, 0.13), (-0.06, 0.16))["entities"]
    seen = table((0.0, 0.26), (0.0, 0.13), (0.0, 0.0))["entities"]
    with torch.no_grad():
        both = torch.ones(1, 3, dtype=torch.bool)
        share = memory._whose(seen, both, last, memory.stream_of)[0]
    assert (share.sum(dim=0) - 1).abs().max() < 0.15
    torch.testing.assert_close(share.sum(dim=1), torch.ones(3))
    assert share.argmax(dim=1).tolist() == [2, 1, 0]


def test_knowledge_fades_at_many_rates_at_the_start(memory):
    bias = memory.cell.bias_ih[memory.width : 2 * memory.width]
    assert (bias >= 0).all() and (bias <= 4.2).all() and bias.max() - bias.min() > 1


def test_foreign_states_and_senseless_options_are_refused(memory):
    state = memory.initial(3)
    with pytest.raises(SpecMismatch, match="2 rows of queries"):
        memory.step(ticks(1)[0], torch.zeros(2), state, torch.zeros(2, dtype=torch.bool))
    with pytest.raises(SpecMismatch, match="'last' should be"):
        memory.step(ticks(1)[0], torch.zeros(2), {}, torch.zeros(2, dtype=torch.bool))
    with pytest.raises(ConfigError, match=r"memory\.width must be >= 0"):
        build_memory("recurrent_tokens", STREAMS, {"width": -1})
    with pytest.raises(ConfigError, match="heads must divide"):
        build_memory("recurrent_tokens", STREAMS, {"heads": 3})
