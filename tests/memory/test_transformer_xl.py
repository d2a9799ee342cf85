"""Transformer-XL, its gated form and LSTM against their equations, and how far they reach."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from embodied.memory import build_memory, build_vector_memory
from embodied.memory.gru import GRUVector
from embodied.memory.lstm import LSTMVector
from embodied.memory.transformer_xl import Gate, TransformerXL, TransformerXLConfig
from embodied.nn.window_attention import BLOCK, WindowAttention
from tests.contracts.tools import assert_close
from tests.contracts.vectors import Vectors, act, assert_near, learn, random_vectors

SMALL = {"width": 8, "heads": 2, "capacity": 3, "layers": 1, "time_encoding": False}


def build(**options: object) -> TransformerXL:
    torch.manual_seed(0)
    return TransformerXL(TransformerXLConfig(**{**SMALL, **options})).eval()


def steady(memory, length: int, batch: int = 2) -> Vectors:
    ticks = random_vectors(memory, length, 0, batch)
    yes = torch.ones_like(ticks.valid)
    return Vectors(ticks.items, ticks.time_s, ~yes, yes, yes, yes)


def by_hand(attention: WindowAttention, ticks: Tensor, t: int, past: int) -> Tensor:
    """Attention of tick t of [T, D] over itself and `past` ticks before, head by head."""
    x = attention.norm(ticks)
    width = x.shape[-1]
    size = attention.head_width
    heads = []
    for h in range(attention.heads):
        rows = slice(h * size, (h + 1) * size)
        q = attention.query.weight[rows] @ x[t] + attention.query.bias[rows]
        scores, values = [], []
        for j in range(max(t - past, 0), t + 1):
            frequencies = 10000.0 ** (-2 * torch.arange(width // 2) / width)
            angle = (t - j) * frequencies
            p = torch.cat([torch.cos(angle), torch.sin(angle)])
            content = q @ (attention.key.weight[rows] @ x[j])
            place = (q + attention.position_bias[h]) @ (attention.position.weight[rows] @ p)
            scores.append((content + place) / math.sqrt(size))
            values.append(attention.value.weight[rows] @ x[j])
        heads.append(torch.softmax(torch.stack(scores), 0) @ torch.stack(values))
    return attention.out(torch.cat(heads))


@pytest.mark.parametrize("past", [0, 2, 40])
@pytest.mark.parametrize("start", ["independent", "equal"])
def test_window_attention_is_its_equation(past: int, start: str) -> None:
    """Blocks of `band` begin and end inside the segment, in front of it and behind it."""
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, qk_init=start)
    for parameter in (attention.position_bias, attention.query.bias, attention.out.bias):
        nn.init.normal_(parameter)
    ticks = torch.randn(2, BLOCK + 13, 8)
    age = torch.arange(ticks.shape[1]).expand(2, -1)
    band = attention.band(ticks, torch.full((2, past, 8), 7.0), None, age)
    for t in (0, 1, past, BLOCK - 1, BLOCK, BLOCK + 12):
        if t < ticks.shape[1]:
            assert_near(band[1, t], by_hand(attention, ticks[1], t, past))


@pytest.mark.parametrize("past", [0, 5, 40])
def test_what_was_stored_may_differ_from_the_present(past: int) -> None:
    """Each tick reads what was stored of earlier ones, and itself as it is now."""
    torch.manual_seed(0)
    attention = WindowAttention(8, 2)
    before, ticks, stored = (torch.randn(2, n, 8) for n in (past, BLOCK + 13, BLOCK + 13))
    age = torch.tensor([[3], [90]]) + torch.arange(BLOCK + 13)
    ticks.requires_grad_()
    band = attention.band(ticks, before, stored, age)
    gradients = torch.autograd.grad((band * band.detach().cos()).sum(), ticks)[0]
    pool = torch.cat([before, stored], dim=1)
    windows = [
        torch.cat([pool[:, t : t + past], ticks[:, t : t + 1]], 1) for t in range(BLOCK + 13)
    ]
    live = torch.arange(past, -1, -1) <= age[..., None]
    each = [attention.attend(w, live[:, t])[0] for t, w in enumerate(windows)]
    expected = torch.stack(each, dim=1)
    assert_near(band, expected)
    wanted = torch.autograd.grad((expected * expected.detach().cos()).sum(), ticks)[0]
    assert_near(gradients, wanted, 5.0)


def test_a_layer_reaches_as_far_as_its_window() -> None:
    for layers in (1, 3):
        memory = build(layers=layers)
        ticks = steady(memory, 14)
        ticks.items.requires_grad_()
        value, _ = learn(memory, ticks, memory.initial(2))
        value[:, -1].square().sum().backward()
        reached = ticks.items.grad.abs().amax(dim=(0, 2)) > 0
        assert reached.tolist() == [t >= 13 - 3 * layers for t in range(14)]


def test_a_larger_window_is_the_state_s() -> None:
    memory = build()
    ticks = steady(memory, 10)
    small, _ = learn(memory, ticks, memory.initial(2))
    large, state = learn(memory, ticks, memory.initial(2, 6))
    assert memory.capacity_of(state) == 6
    assert_near(large[:, :4], small[:, :4])
    assert ((large - small)[:, 4:].abs().amax(dim=(0, 2)) > 1e-4).all()
    assert_near(act(memory, ticks, memory.initial(2, 6))[0], large)


def test_a_larger_window_has_positions_of_any_precision() -> None:
    ticks = steady(build(), 10)
    value, _ = learn(build(), ticks, build().initial(2, 6))
    memory = build().double()
    ticks.items = ticks.items.double()
    for run in (learn, act):
        assert_near(value.double(), run(memory, ticks, memory.initial(2, 6))[0])


def test_positions_tell_the_order_of_past_ticks() -> None:
    memory = build(capacity=9)
    ticks = steady(memory, 6)
    value, _ = learn(memory, ticks, memory.initial(2))
    ticks.items = ticks.items[:, [2, 0, 4, 1, 3, 5]]
    other, _ = learn(memory, ticks, memory.initial(2))
    assert (value - other)[:, 5].abs().max() > 1e-3


@pytest.mark.parametrize("bias", [0.0, 2.0])
def test_the_gate_is_its_equation(bias: float) -> None:
    torch.manual_seed(0)
    gate, (x, y) = Gate(4, bias), torch.randn(2, 3, 4)
    new = torch.relu(y)
    (w_r, w_z, w_g), (u_r, u_z) = gate.new.weight.split(4), gate.old.weight.split(4)
    r = torch.sigmoid(new @ w_r.T + x @ u_r.T)
    z = torch.sigmoid(new @ w_z.T + x @ u_z.T - bias)
    g = torch.tanh(new @ w_g.T + (r * x) @ gate.reset.weight.T)
    torch.testing.assert_close(gate(x, y), (1 - z) * x + z * g)


def test_a_large_gate_bias_starts_at_the_identity() -> None:
    memory = build(gated=True, gate_bias=40.0, layers=3)
    ticks = steady(memory, 5)
    torch.testing.assert_close(learn(memory, ticks, memory.initial(2))[0], ticks.items)
    plain = build(layers=3)
    assert (learn(plain, ticks, plain.initial(2))[0] - ticks.items).abs().max() > 0.1


def test_lstm_is_torch_s_and_its_equation() -> None:
    torch.manual_seed(0)
    memory = LSTMVector(4, layers=2, time_encoding=False)
    reference = nn.LSTM(4, 4, num_layers=2, batch_first=True)
    for i, cell in enumerate(memory.cells):
        for name, parameter in cell.named_parameters():
            getattr(reference, f"{name}_l{i}").data.copy_(parameter)
    ticks = steady(memory, 7)
    expected, (hidden, cell) = reference(ticks.items)
    value, state = learn(memory, ticks, memory.initial(2))
    assert_near(value, expected)
    assert_near(state["hidden"], hidden.transpose(0, 1))
    assert_near(state["cell"], cell.transpose(0, 1))
    ticks.is_first[:, 4] = True  # now by the loop
    again, _ = learn(memory, ticks, memory.initial(2))
    assert_near(again[:, :4], expected[:, :4])
    fresh, _ = reference(ticks.items[:, 4:])
    assert_near(again[:, 4:], fresh)
    first, x = memory.cells[0], ticks.items[:, 0]
    i, _, g, o = (first.weight_ih @ x[0] + first.bias_ih + first.bias_hh).split(4)
    c = torch.sigmoid(i) * torch.tanh(g)
    _, after = memory.step(x, ticks.time_s[:, 0], memory.initial(2), torch.zeros(2).bool())
    assert_near(after["cell"][0, 0], c)
    assert_near(after["hidden"][0, 0], torch.sigmoid(o) * torch.tanh(c))


@pytest.mark.parametrize("kind", [LSTMVector, GRUVector])
def test_a_recurrent_read_knows_the_present_or_the_past_alone(kind) -> None:
    values = []
    for present in (True, False):
        torch.manual_seed(0)
        memory = kind(4, reads_present=present)
        values.append(learn(memory, steady(memory, 6), memory.initial(2))[0])
    assert_near(values[1][:, 1:], values[0][:, :-1])
    assert not values[1][:, 0].any() and values[0][:, 0].any()


def test_narrow_inputs_are_widened() -> None:
    memory = build(layers=2)
    ticks = steady(memory, 6)
    ticks.items = ticks.items.bfloat16()
    value, state = learn(memory, ticks, memory.initial(2))
    acted, after, _ = act(memory, ticks, memory.initial(2))
    assert value.dtype == acted.dtype == torch.bfloat16
    assert torch.equal(value, acted) or (value - acted).abs().max() < 0.05
    assert {t.dtype for t in state.values()} == {torch.float32, torch.int64}
    assert_near(after["1.window"], state["1.window"])


@pytest.mark.parametrize("kind", [LSTMVector, GRUVector])
def test_recurrent_memories_act_as_precisely_as_they_learn(kind) -> None:
    """Under autocast too, or what acting carries on would drift off what learning computes."""
    torch.manual_seed(0)
    memory = kind(8, time_encoding=False)
    ticks = steady(memory, 40)
    with torch.autocast("cpu", torch.bfloat16):
        acted, after, _ = act(memory, ticks, memory.initial(2))
        learnt, state = learn(memory, ticks, memory.initial(2))
    assert_near(acted, learnt)
    assert_near(after["hidden"], state["hidden"])


@pytest.mark.parametrize("name", ["gru", "transformer_xl"])
def test_what_was_asked_is_not_computed_again_to_be_stored(name, monkeypatch) -> None:
    """Whatever dictionary the same tensors come in."""
    torch.manual_seed(0)
    memory = build_memory(name, {"tokens": (4, 8)}, {"width": 8}).eval()
    state, no, now = memory.initial(2), torch.zeros(2).bool(), torch.zeros(2)
    query, pooled = {"tokens": torch.randn(2, 4, 8)}, memory.pool.forward
    _, pending = memory.read(query, now, state, no)
    calls = []
    monkeypatch.setattr(memory.pool, "forward", lambda item: calls.append(1) or pooled(item))
    written = memory.write(pending, {**query, "tokens.mark": torch.zeros(2)}, now, state)
    assert not calls
    other = memory.write(pending, {"tokens": query["tokens"].clone()}, now, state)
    assert calls
    assert_close(written, other)


@pytest.mark.parametrize("name", ["transformer_xl", "hierarchical_chunks"])
def test_stacks_of_layers_act_as_precisely_as_they_learn(name: str) -> None:
    """Under autocast too: a tick alone and a segment get to one read in different ways."""
    torch.manual_seed(0)
    memory = build_vector_memory(name, 32, {"capacity": 7})
    assert memory is not None
    ticks = steady(memory, 40)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        acted, after, record = act(memory, ticks, memory.initial(2))
        learnt, state = learn(memory, ticks, memory.initial(2))
        stored, _ = learn(memory, ticks, memory.initial(2), record=record)
    assert_near(acted, learnt)
    assert_near(acted, stored)
    assert_near(after["1.window"], state["1.window"])
