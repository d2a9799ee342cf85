"""A toy agent trained by a policy gradient through `evaluate`: see a cue, wait, name it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.core.policy import Evaluation, Policy
from embodied.core.rng import GUMBEL
from embodied.core.specs import DISCRETE, ActionSpec, ArraySpec, PolicySpec
from embodied.core.types import Action, Observation, Segment, State, Working
from embodied.memory import build_memory
from tests.toys.specs import memory_specs

CUES, TICKS, WIDTH = 3, 5, 16


class RecallAgent(Policy):
    """Chooses one of the cues; samples by the Gumbel trick, so noise is an argument.

    Args:
      memory: Name of its memory; ``"none"`` for the memoryless twin.
    """

    def __init__(self, memory: str = "perceptual_cognitive") -> None:
        super().__init__()
        self.encode = nn.Linear(CUES + 1, WIDTH)
        options = {} if memory == "none" else {"time_scale_hz": 2.5}
        if memory == "gru":
            options["width"] = WIDTH
        self.memory = build_memory(memory, {"token": (1, WIDTH)}, options)
        self.body = nn.Sequential(nn.Linear(2 * WIDTH, 2 * WIDTH), nn.SiLU())
        self.logits, self.value = nn.Linear(2 * WIDTH, CUES), nn.Linear(2 * WIDTH, 1)
        self.spec = PolicySpec(
            observations={
                "cue": ArraySpec((CUES,), "float32", "", 0.0, 1.0),
                "go": ArraySpec((1,), "float32", "", 0.0, 1.0),
            },
            action=ActionSpec(DISCRETE, size=CUES, horizon=1, low=0.0, high=1.0),
            control_hz=2.5,
            observe_on="period",
            observe_period_s=0.4,
            noise_shape=(CUES,),
            noise_law=GUMBEL,
            state=memory_specs(self.memory),
            record={"logits": ArraySpec((CUES,), "float32")},
            instruction="none",
        )

    def initial_state(self, batch: int, capacity: int | None = None) -> State:
        return self.memory.initial(batch, capacity)

    def observe(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        query = {"token": self._token(obs)}
        value, pending = self.memory.read(query, time_s, state, reset)
        state = self.memory.write(pending, query, time_s, state)
        logits, critic = self._heads(query["token"], value["token"])
        return Working({"logits": logits, "value": critic}, {"logits": logits}), state

    def act(self, working: Working, noise: Tensor) -> Action:
        logits = working.features["logits"]
        choice = (logits + noise).argmax(dim=-1)
        log_prob = F.log_softmax(logits, dim=-1).gather(1, choice[:, None])[:, 0]
        chunk = F.one_hot(choice, CUES).to(logits.dtype)[:, None]
        return Action(chunk, log_prob, working.features["value"])

    def evaluate(self, segment: Segment, state: State) -> Evaluation:
        tokens = self._token(segment.obs)
        value, state = self.memory.unroll(
            {"token": tokens}, segment.time_s, state, segment.is_first, segment.valid
        )
        logits, critic = self._heads(tokens, value["token"])
        log_probs = F.log_softmax(logits, dim=-1)
        # How far the policy moved from the one that acted.
        acted = F.log_softmax(segment.record["logits"], dim=-1)
        moved = (acted.exp() * (acted - log_probs)).sum(-1)
        used = segment.valid & segment.act_mask
        return Evaluation(
            log_prob=(segment.chunk[..., 0, :] * log_probs).sum(-1),
            entropy=-(log_probs.exp() * log_probs).sum(-1),
            value=critic,
            aux_losses={"drift": (moved * used).sum() / used.sum().clamp(min=1)},
            state=state,
        )

    def _token(self, obs: Observation) -> Tensor:
        """Returns [..., 1, D] from observations [..., n]."""
        return self.encode(torch.cat([obs["cue"], obs["go"]], dim=-1)).unsqueeze(-2)

    def _heads(self, token: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        body = self.body(torch.cat([token, value], dim=-1)).squeeze(-2)
        return self.logits(body), self.value(body).squeeze(-1)


def episodes(cue: Tensor) -> Segment:
    """Returns episodes that show `cue` [B] at the first tick and ask at the last."""
    batch = len(cue)
    shown = torch.zeros(batch, TICKS, CUES)
    shown[:, 0] = F.one_hot(cue, CUES).float()
    go = torch.zeros(batch, TICKS, 1)
    go[:, -1] = 1
    first = torch.zeros(batch, TICKS, dtype=torch.bool)
    first[:, 0] = True
    return Segment(
        obs={"cue": shown, "go": go},
        time_s=0.4 * torch.arange(TICKS).expand(batch, TICKS),
        is_first=first,
        valid=torch.ones_like(first),
        act_mask=go[..., 0] > 0,
        chunk=torch.zeros(batch, TICKS, 1, CUES),
        chunk_valid=torch.ones(batch, TICKS, 1, dtype=torch.bool),
    )


@torch.no_grad()
def act_out(policy: RecallAgent, segment: Segment, noise: Tensor) -> Tensor:
    """Fills the segment with what the policy does; returns the reward [B] at the last tick."""
    batch = len(segment.valid)
    state, chunks, records = policy.initial_state(batch), [], []
    for t in range(TICKS):
        obs = {key: tensor[:, t] for key, tensor in segment.obs.items()}
        working, state = policy.observe(obs, segment.time_s[:, t], state, segment.is_first[:, t])
        chunks.append(policy.act(working, noise[:, t]).chunk)
        records.append(working.record["logits"])
    segment.chunk = torch.stack(chunks, dim=1)
    segment.record = {"logits": torch.stack(records, dim=1)}
    return (segment.chunk[:, -1, 0] * segment.obs["cue"][:, 0]).sum(-1)


def train(policy: RecallAgent, seed: int, updates: int, batch: int = 96) -> int:
    """Trains by REINFORCE with a learned baseline until every cue is named; returns updates."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)
    every = episodes(torch.arange(CUES))
    for update in range(1, updates + 1):
        segment = episodes(torch.arange(batch) % CUES)
        uniform = torch.rand(batch, TICKS, CUES, generator=generator).clamp(1e-6, 1 - 1e-6)
        reward = act_out(policy, segment, -(-uniform.log()).log())
        out = policy.evaluate(segment, policy.initial_state(batch))
        log_prob, value = out.log_prob[:, -1], out.value[:, -1]
        advantage = reward - value.detach()
        loss = -(log_prob * advantage).mean() + (value - reward).square().mean()
        loss = loss - 0.01 * out.entropy[:, -1].mean() + out.aux_losses["drift"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if act_out(policy, every, torch.zeros(CUES, TICKS, CUES)).sum() == CUES:
            sampled = -(-torch.rand(300, TICKS, CUES, generator=generator).log()).log()
            if act_out(policy, episodes(torch.arange(300) % CUES), sampled).mean() > 0.97:
                return update
    return updates + 1
