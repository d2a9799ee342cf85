"""Collects segments of experience: environments of several tasks in the rows of one batch.

Episodes go on from segment to segment, and memory with them. Training seeds stay below those of
validation and evaluation; when they are used up, they begin anew.

Shape letters: B rows, T ticks of a segment, A action size.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from embodied import registry
from embodied.core.errors import CheckpointError, SpecMismatch
from embodied.core.policy import Policy
from embodied.core.rng import GUMBEL, VALIDATION_SEED_START
from embodied.core.specs import DISCRETE, EE_DELTA_CHUNK, Interface
from embodied.core.ticks import PERIOD
from embodied.core.types import Segment, State
from embodied.train.config import ALL, STORED, ReinforceConfig
from embodied.train.returns import Decisions, find_decisions

Setting = tuple[str, str]
"""Task and level."""


@dataclasses.dataclass
class Experience:
    """What was seen, done and paid in a segment of all rows.

    Attributes:
      segment: The ticks, with the actions taken as chunks of one and what the policy recorded.
      entry: Memory before the segment.
      log_prob: [B, T] of the actions when they were taken.
      value: [B, T] as judged then.
      beyond: [B]; value of the tick right behind the segment.
      decisions: Where something was decided, and what was paid for it.
    """

    segment: Segment
    entry: State
    log_prob: Tensor
    value: Tensor
    beyond: Tensor
    decisions: Decisions

    def rows(self, chosen: Tensor) -> Experience:
        """Returns some rows."""
        return Experience(
            segment=self.segment.map(lambda tensor: tensor[chosen]),
            entry={name: tensor[chosen] for name, tensor in self.entry.items()},
            log_prob=self.log_prob[chosen],
            value=self.value[chosen],
            beyond=self.beyond[chosen],
            decisions=self.decisions.rows(chosen),
        )


def interface_of(env: Any) -> Interface:
    """Returns what a policy of a vector environment is built for: an action at every tick."""
    space = env.single_action_space
    discrete = isinstance(space, gymnasium.spaces.Discrete)
    control_hz = float(env.metadata["control_hz"])
    return Interface(
        observations=dict(env.observation_specs),
        action_size=int(space.n) if discrete else int(space.shape[0]),
        control_hz=control_hz,
        observe_on=PERIOD,
        observe_period_s=1.0 / control_hz,
        max_ticks=int(env.horizon),
        action_kind=DISCRETE if discrete else EE_DELTA_CHUNK,
    )


def shares(weights: Sequence[float], rows: int) -> list[int]:
    """Returns how many of `rows` each setting gets: in proportion, at least one where it counts.

    Raises:
      SpecMismatch: If there are fewer rows than settings that count.
    """
    total = sum(weights)
    exact = [rows * weight / total for weight in weights]
    whole = [max(int(part), int(weight > 0)) for part, weight in zip(exact, weights, strict=True)]
    if sum(whole) > rows:
        least = [int(weight > 0) for weight in weights]
        if sum(least) > rows:
            raise SpecMismatch(
                f"reinforce.rows={rows} are too few for {sum(least)} tasks; raise reinforce.rows"
            )
        whole = least
    by_remainder = sorted(range(len(weights)), key=lambda i: whole[i] - exact[i])
    for i in by_remainder[: rows - sum(whole)]:
        whole[i] += 1
    while sum(whole) < rows:
        whole[max(range(len(weights)), key=lambda i: exact[i] - whole[i])] += 1
    return whole


class Rollout:
    """The environments, where they are, and the memory of their rows.

    Args:
      policy: Acts, in training mode and without gradients.
      config: Sizes, and how the simulator is made.
      settings: Tasks and levels.
      weights: Share of the rows of each.
      device: Where the policy is.

    Attributes:
      frames: Ticks so far, all rows together.
      results: For each setting, the success of its latest episodes.
    """

    def __init__(
        self,
        policy: Policy,
        config: ReinforceConfig,
        settings: Sequence[Setting],
        weights: Sequence[float],
        device: torch.device,
    ) -> None:
        self.policy, self.config, self.device = policy, config, device
        self.settings, self.frames = list(settings), 0
        self.results: list[deque[bool]] = [deque(maxlen=config.window) for _ in settings]
        self.envs: list[Any] = []
        self.place(weights)

    # -- rows ---------------------------------------------------------------------------------

    def place(self, weights: Sequence[float]) -> None:
        """Gives each setting its rows and starts episodes in all of them."""
        self.close()
        counts = shares(weights, self.config.rows)
        self.setting = np.repeat(np.arange(len(counts)), counts)
        self.slices, start = [], 0
        for (task, level), count in zip(self.settings, counts, strict=True):
            if count:
                # What is seen goes into a tensor before the next step overwrites it.
                env = registry.make_vec(task, level, self.config.env, num_envs=count, copy=False)
                self.envs.append(env)
                self.slices.append(slice(start, start + count))
            start += count
        rows = self.config.rows
        self.seeds = np.arange(rows, dtype=np.int64)
        self.first = np.ones(rows, bool)
        self.state = self.policy.initial_state(rows)
        self._seen = [env.reset(seed=self._seeds(part)) for env, part in self._parts()]

    def close(self) -> None:
        """Closes the environments."""
        for env in self.envs:
            env.close()
        self.envs = []

    def success(self) -> dict[Setting, float]:
        """Returns the running success of settings whose window is full, or half so."""
        enough = max(1, self.config.window // 2)
        pairs = zip(self.settings, self.results, strict=True)
        return {s: sum(r) / len(r) for s, r in pairs if len(r) >= enough}

    # -- acting -------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self, noise: torch.Generator) -> Experience:
        """Acts for a segment; `noise` draws what the policy explores with."""
        self.policy.train()
        rows, ticks = self.config.rows, self.config.ticks
        entry = {name: tensor.clone() for name, tensor in self.state.items()}
        kept: dict[str, list[Tensor]] = {}
        reward, ended = np.zeros((ticks, rows), np.float32), np.zeros((ticks, rows), bool)
        for tick in range(ticks):
            seen = self._observation()
            working, self.state = self.policy.observe_into(
                seen.obs, seen.time_s, self.state, seen.first
            )
            action = self.policy.act(working, self._draw(noise))
            row = {f"obs.{key}": value for key, value in seen.obs.items()}
            row |= {f"record.{key}": value for key, value in working.record.items()}
            row |= {"time_s": seen.time_s, "first": seen.first, "acting": seen.acting}
            row |= {"chunk": action.chunk, "log_prob": action.log_prob, "value": action.value}
            for name, value in row.items():
                kept.setdefault(name, []).append(value)
            reward[tick], ended[tick] = self._step(action.chunk)
        self.frames += rows * ticks
        stacked = {name: torch.stack(values, dim=1) for name, values in kept.items()}
        after = self._observation()
        beyond, _ = self.policy.observe(after.obs, after.time_s, self.state, after.first)
        valid = torch.ones_like(stacked["first"])
        segment = Segment(
            obs=_group(stacked, "obs."),
            time_s=stacked["time_s"],
            is_first=stacked["first"],
            valid=valid,
            act_mask=stacked["acting"],
            chunk=stacked["chunk"],
            chunk_valid=valid[..., None],
            record=_group(stacked, "record.") if self.config.storage == STORED else {},
        )
        decisions = find_decisions(
            torch.from_numpy(reward.T.copy()),
            torch.from_numpy(ended.T.copy()),
            segment.act_mask.cpu(),
            after.acting.cpu(),
            self.config.gamma,
        )
        return Experience(
            segment=segment,
            entry=entry,
            log_prob=stacked["log_prob"],
            value=stacked["value"],
            beyond=self.policy.act(beyond, torch.zeros_like(action.chunk[:, 0])).value,
            decisions=decisions.to(self.device),
        )

    def _observation(self) -> _Seen:
        obs = {
            key: self._upload([seen[key] for seen, _ in self._seen])
            for key in self.policy.spec.observations
        }
        time_s = self._upload([np.asarray(info["time_s"], np.float32) for _, info in self._seen])
        acting = self._upload([~np.asarray(info["held"], bool) for _, info in self._seen])
        if self.config.loss_on == ALL:
            acting = torch.ones_like(acting)
        return _Seen(obs, time_s, torch.from_numpy(self.first.copy()).to(self.device), acting)

    def _upload(self, parts: list[np.ndarray]) -> Tensor:
        """Returns a tensor of its own, which no later step of an environment changes."""
        array = np.array(parts[0]) if len(parts) == 1 else np.concatenate(parts)
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def _draw(self, noise: torch.Generator) -> Tensor:
        shape = (self.config.rows, *self.policy.spec.noise_shape)
        if self.policy.spec.noise_law != GUMBEL:
            return torch.randn(shape, generator=noise, device=self.device)
        uniform = torch.rand(shape, generator=noise, device=self.device).clamp(1e-20, 1 - 1e-7)
        return -(-uniform.log()).log()

    def _step(self, chunk: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Does the first action of each row's chunk; starts episodes where one ended."""
        discrete = self.policy.spec.action.kind == DISCRETE
        action = chunk[:, 0].argmax(dim=-1) if discrete else chunk[:, 0].clamp(-1.0, 1.0)
        actions = action.cpu().numpy()
        rewards, ended = np.zeros(len(actions), np.float32), np.zeros(len(actions), bool)
        for index, (env, part) in enumerate(self._parts()):
            obs, reward, terminated, truncated, info = env.step(actions[part])
            over = np.asarray(terminated) | np.asarray(truncated)
            rewards[part], ended[part] = reward, over
            if over.any():
                self._count(part, over, np.asarray(info["success"], bool))
                self.seeds[part] += np.where(over, self.config.rows, 0)
                obs, info = env.reset(seed=self._seeds(part), options={"reset_mask": over})
            self._seen[index] = obs, info
        self.first = ended
        return rewards, ended

    def _count(self, part: slice, over: np.ndarray, success: np.ndarray) -> None:
        results = self.results[int(self.setting[part.start])]
        results.extend(bool(won) for won in success[over])

    def _parts(self) -> list[tuple[Any, slice]]:
        return list(zip(self.envs, self.slices, strict=True))

    def _seeds(self, part: slice) -> list[int]:
        return [int(seed) for seed in self.seeds[part] % VALIDATION_SEED_START]

    # -- saving -------------------------------------------------------------------------------

    def save(self) -> dict[str, dict[str, Tensor]]:
        """Returns file stem -> tensors: memory, environments and counters."""
        games = {
            f"{index}.{name}": torch.from_numpy(np.array(array))
            for index, env in enumerate(self.envs)
            for name, array in env.save_state().items()
        }
        counters = {
            "seeds": torch.from_numpy(self.seeds.copy()),
            "first": torch.from_numpy(self.first.copy()),
            "frames": torch.tensor(self.frames),
            **{f"results.{i}": torch.tensor(list(r)) for i, r in enumerate(self.results)},
        }
        memory = {name: tensor.contiguous() for name, tensor in self.state.items()}
        return {
            "environments": games,
            "rollout": counters,
            **({"memory": memory} if memory else {}),
        }

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Carries on from what `save` gave, with the rows placed as they were then.

        Raises:
          CheckpointError: If something is missing.
        """
        missing = {"environments", "rollout"} - tensors.keys()
        if missing:
            raise CheckpointError(
                f"the checkpoint lacks {', '.join(sorted(missing))}.safetensors; remove it, so "
                "that the run carries on from the one before it"
            )
        counters = tensors["rollout"]
        self.seeds, self.first = counters["seeds"].numpy(), counters["first"].numpy()
        self.frames = int(counters["frames"])
        for i, results in enumerate(self.results):
            results.extend(bool(won) for won in counters[f"results.{i}"])
        for index, env in enumerate(self.envs):
            state = _group(tensors["environments"], f"{index}.")
            env.restore_state({name: tensor.numpy() for name, tensor in state.items()})
            self._seen[index] = env.observe()
        self.state = {
            name: tensor.to(self.device) for name, tensor in tensors.get("memory", {}).items()
        }


@dataclasses.dataclass
class _Seen:
    """What all rows see at a tick."""

    obs: dict[str, Tensor]
    time_s: Tensor
    first: Tensor
    acting: Tensor


def _group(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
