"""The one loop that runs a policy in environments and returns a row per episode.

Each row of the batch advances by itself to its next observation tick and waits there; once
every live row waits, the policy is called once, always with the whole batch (rows without an
episode are computed and thrown away). So a policy call serves as many rows as there are,
environment steps never wait for a network, and what happens in a row depends on nothing but
its seed: worker counts and synchronous or asynchronous stepping change no bit.

Episode i runs in row i modulo B. Matrix kernels may round differently in another row or batch
size; with a fixed place a replay of some episodes is bit-equal to the run they came from.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from embodied.core import rng
from embodied.core.errors import ConfigError, SimulatorError
from embodied.core.policy import Policy, state_nbytes, take_rows
from embodied.core.specs import check_observations
from embodied.core.ticks import PERIOD, advance, period_ticks
from embodied.evaluate.config import CALLS, EPISODE
from embodied.evaluate.executors import Executor, ExecutorConfig, build_executor
from embodied.evaluate.inspection import MemoryInspector
from embodied.evaluate.interventions import (
    Donor,
    MemoryIntervention,
    at_point,
    check_intervention,
    cue_over,
)
from embodied.evaluate.remote import RemotePolicy
from embodied.evaluate.results import NONE, SWAPS, EpisodeResult
from embodied.evaluate.video import VideoRecorder
from embodied.memory.base import where_rows


@dataclasses.dataclass(frozen=True)
class Job:
    """One episode to run: `index` in the result, or a donor that stops at its go."""

    index: int
    seed: int
    cue: int | None
    donor: bool = False


@torch.inference_mode()
def run(
    policy: Policy,
    vec_env: Any,
    seeds: Sequence[int],
    *,
    cues: Sequence[int | None] | None = None,
    rows: Sequence[int] | None = None,
    n_cues: int | None = None,
    executor: ExecutorConfig | None = None,
    intervene: str = NONE,
    device: str | torch.device | None = None,
    capacity: int | None = None,
    clock: str = EPISODE,
    recorder: VideoRecorder | None = None,
    inspector: MemoryInspector | None = None,
    task: str = "",
    level: str = "",
    train_seed: int | None = None,
    progress: bool = True,
) -> list[EpisodeResult]:
    """Runs one episode a seed and returns their rows in the order of `seeds`.

    Args:
      policy: Put into evaluation mode for the run.
      vec_env: A vector env of `sims.make_vec` with autoreset disabled; its number of rows is
        the batch size B.
      seeds: Episode seeds, each once.
      cues: A cue for each seed instead of the seed's own; None entries keep the own.
      rows: The batch row of each episode; by default its index modulo B.
      n_cues: Number of cue values; needed for swapping.
      executor: How answers become control actions; by default the prefix of chunks, or keyframes.
      intervene: One of `results.INTERVENTIONS`.
      device: Where the policy is; by default where its weights are.
      capacity: Memory slots instead of the policy's own number.
      clock: What memory is told as time; see `EvaluateConfig`.
      recorder: Receives frames of the episodes it wants.
      inspector: Receives the policy's explanations of the episodes it wants.
      task: Name written into the rows.
      level: Name written into the rows.
      train_seed: Written into the rows.
      progress: Whether to show a bar with the running success.

    Raises:
      ConfigError: For repeated seeds, an unknown intervention or a chunk that is too short.
      SpecMismatch: If the env does not give what the policy reads, or begins with an observation
        that the policy refuses.
      SimulatorError: If a worker dies, or the env breaks its contract.
      ActionError: If the policy answers NaN.
    """
    check_intervention(intervene, n_cues)
    if len(set(seeds)) != len(seeds):
        raise ConfigError("evaluation seeds repeat; every episode needs its own seed")
    batch = vec_env.num_envs
    rows = [i % batch for i in range(len(seeds))] if rows is None else list(rows)
    cues = [None] * len(seeds) if cues is None else list(cues)
    if not len(rows) == len(cues) == len(seeds) or any(not 0 <= r < batch for r in rows):
        raise ConfigError(f"rows and cues need one entry for each seed, rows within 0..{batch - 1}")
    queues: list[deque[Job]] = [deque() for _ in range(batch)]
    for index, (seed, cue, row) in enumerate(zip(seeds, cues, rows, strict=True)):
        if intervene in SWAPS:
            queues[row].append(Job(index, int(seed), cue, donor=True))
        queues[row].append(Job(index, int(seed), cue))
    training = policy.training
    policy.eval()
    shown = (task or "evaluate") + ("" if intervene == NONE else f", {intervene}")
    bar = tqdm(total=len(seeds), desc=shown, unit="ep", mininterval=0.5, disable=not progress)
    try:
        loop = _Loop(policy, vec_env, queues, executor or ExecutorConfig(), intervene)
        loop.remember(device, capacity)
        loop.labels = {"task": task, "level": level, "train_seed": train_seed}
        loop.n_cues, loop.recorder, loop.inspector = n_cues, recorder, inspector
        loop.counts_calls = clock == CALLS
        results: dict[int, EpisodeResult] = {}
        for index, result in loop.episodes():
            results[index] = result
            wins = sum(r.success for r in results.values())
            bar.set_postfix_str(f"success {100 * wins / len(results):.1f} %", refresh=False)
            bar.update()
    finally:
        bar.close()
        policy.train(training)
    return [results[index] for index in range(len(seeds))]


def fitted(policy: Policy, vec_env: Any, config: ExecutorConfig) -> Executor:
    """Returns the executor of a policy's answers in an environment that it can read.

    Raises:
      SpecMismatch: If the env does not give what the policy reads.
      ConfigError: If the policy's actions don't fit the executor.
    """
    check_observations(
        policy.spec.observations,
        vec_env.observation_specs,
        needs="the policy",
        gives="the environment",
    )
    return build_executor(config, policy.spec, vec_env.num_envs)


class _Loop:
    """The state of one run: arrays of length B, advanced by `episodes`."""

    def __init__(
        self,
        policy: Policy,
        vec_env: Any,
        queues: list[deque[Job]],
        executor: ExecutorConfig,
        intervene: str,
    ) -> None:
        self.policy, self.spec, self.env, self.queues = policy, policy.spec, vec_env, queues
        self.batch = vec_env.num_envs
        self.reads_images = any(key.endswith("_image_u8") for key in self.spec.observations)
        self.period = 1
        if self.spec.observe_on == PERIOD:
            self.period = period_ticks(self.spec.observe_period_s, self.spec.control_hz)
        self.executor = fitted(policy, vec_env, executor)
        self.intervention = MemoryIntervention(intervene, self.batch)
        self.labels: dict[str, Any] = {}
        self.n_cues: int | None = None
        self.counts_calls = False
        self.recorder: VideoRecorder | None = None
        self.inspector: MemoryInspector | None = None
        self.checked = False

        self.jobs: list[Job | None] = [None] * self.batch
        self.live = np.zeros(self.batch, bool)
        self.waiting = np.zeros(self.batch, bool)  # due, and the policy has not answered yet
        self.leaving = np.zeros(self.batch, bool)  # the next observation ends what rewinds keep
        self.first = np.zeros(self.batch, bool)
        self.since = np.zeros(self.batch, np.int64)
        self.length = np.zeros(self.batch, np.int64)
        self.observed = np.zeros(self.batch, np.int64)
        self.reward = np.zeros(self.batch, np.float64)
        self.obs: dict[str, np.ndarray] = {}
        self.infos: dict[str, Any] = {}

    def remember(self, device: str | torch.device | None, capacity: int | None) -> None:
        """Allocates the memory of all rows."""
        weight = next(self.policy.parameters(), torch.empty(0))
        self.device = weight.device if device is None else torch.device(device)
        self.initial = self.policy.initial_state(self.batch, capacity)
        self.state = self.initial  # whose place may be written over where nobody intervenes
        self.state_bytes = state_nbytes(self.initial) // self.batch

    def episodes(self) -> Iterator[tuple[int, EpisodeResult]]:
        """Runs every queue to its end; yields (index, row) as episodes finish."""
        started = np.array([bool(queue) for queue in self.queues])
        while started.any():
            self.start(started)
            self.record(started)
            donors_done = self.arrive(started)
            started = donors_done & self.advance_queue(donors_done)
            while self.live.any() and not started.any():
                if not (self.live & ~self.waiting).any():
                    self.answer()
                stepped, done = self.step()
                self.record(stepped)
                donors_done = self.arrive(stepped & ~done)
                for row in np.flatnonzero(done):
                    yield from self.finish(int(row))
                started = self.advance_queue(done | donors_done)

    def advance_queue(self, over: np.ndarray) -> np.ndarray:
        """Ends the episodes of rows in `over`; returns those with another one to start."""
        self.live &= ~over
        self.waiting &= ~over
        more = np.array([bool(queue) for queue in self.queues])
        return over & more

    def start(self, rows: np.ndarray) -> None:
        """Resets `rows` to the next episodes of their queues."""
        for row in np.flatnonzero(rows):
            self.jobs[row] = self.queues[row].popleft()
        self.reset(rows, {row: self.jobs[row].cue for row in np.flatnonzero(rows)})
        donors = {row: self.jobs[row] for row in np.flatnonzero(rows) if self.jobs[row].donor}
        if donors and "donor_point" not in self.infos:
            other = {row: (int(self.infos["cue"][row]) + 1) % self.n_cues for row in donors}
            mask = np.isin(np.arange(self.batch), list(donors))
            self.reset(mask, other)
        for row in np.flatnonzero(rows):
            self.intervention.start(row)
            if self.jobs[row].donor:
                self.intervention.donors[row] = None
            self.executor.tally(int(row))  # counts of an earlier episode
        self.live |= rows
        self.leaving &= ~rows
        self.first |= rows
        self.length[rows] = self.observed[rows] = self.since[rows] = 0
        self.reward[rows] = 0.0

    def reset(self, rows: np.ndarray, cues: dict[int, int | None]) -> None:
        """Resets the envs of `rows`; other rows keep what they have."""
        options = {"reset_mask": rows.copy(), "cue": [cues.get(row) for row in range(self.batch)]}
        self.obs, self.infos = self.env.reset(seed=self.seeds(), options=options)

    def arrive(self, fresh: np.ndarray) -> np.ndarray:
        """Decides for rows at a new control tick whether they observe.

        Returns:
          bool [B]: donor rows that have just left their memory and are over.
        """
        gate = np.asarray(self.infos["gate"], bool)
        self.executor.clear(fresh & (self.first | gate | np.asarray(self.infos["held"], bool)))
        decision = self.executor.decisions(self.obs)
        due, since = advance(
            self.since,
            self.first,
            gate,
            decision,
            observe_on=self.spec.observe_on,
            period=self.period,
        )
        self.since = np.where(fresh, since, self.since)
        self.waiting |= fresh & due
        donors_done = np.zeros(self.batch, bool)
        if self.intervention.kind == NONE:
            return donors_done
        over = fresh & cue_over(self.infos, gate)
        if "swap_point" in self.infos:
            # What was done is hidden before it is observed; the gap is the first to tell of it.
            self.leaving |= over
        else:
            self.intervention.leave_cue(over, self.state)
        is_donor = np.array([job is not None and job.donor for job in self.jobs])
        point = fresh & at_point(self.infos, gate, is_donor)
        for row in np.flatnonzero(self.intervention.arrive(point)):
            job = self.jobs[row]
            if job.donor:
                self.intervention.keep_donor(
                    row,
                    job.seed,
                    int(self.infos["cue"][row]),
                    str(self.infos["target"][row]),
                    self.initial if self.first[row] else self.state,
                    self.observation(),
                    float(self.memory_time_s()[row]),
                )
                donors_done[row] = True
        return donors_done

    def answer(self) -> None:
        """Calls the policy once for all waiting rows."""
        due = self.waiting
        acting = due & ~np.asarray(self.infos["held"], bool)
        if self.reads_images:
            self.check_images(due)
        if isinstance(self.policy, RemotePolicy):
            tick = self.observation(), self.memory_time_s(), self.first, due, acting
            chunks = self.policy.ask(*tick, self.seeds())
        else:
            chunks = self.think(due, acting)
        if self.inspector is not None:
            self.inspector.answered(self.inspected(), acting, chunks)
        if acting.any():
            self.executor.accept(chunks, acting, self.obs)
        self.observed += due
        self.first &= ~due
        self.waiting[:] = False

    def think(self, due: np.ndarray, acting: np.ndarray) -> np.ndarray:
        """Lets the policy of this process observe; returns chunks float32 [B, K, A] if any act."""
        observation, clock = self.observation(), self.memory_time_s()
        state = self.intervention.apply(self.state, self.initial, observation, clock, due)
        time_s = torch.from_numpy((clock + self.intervention.clock_shift_s).astype(np.float32))
        obs = {key: self.upload(np.array(value)) for key, value in observation.items()}
        time_s, reset = time_s.to(self.device, non_blocking=True), self.upload(self.first & due)
        if not self.checked:
            seen = torch.from_numpy(np.flatnonzero(due)).to(self.device)
            source = self.labels.get("task") or "the environment"
            self.policy.check({key: value[seen] for key, value in obs.items()}, source)
            self.checked = True
        self.look_inside(obs, time_s, state, reset)
        if self.intervention.kind == NONE and (due | ~self.live).all():
            # No row keeps its memory: nothing of a large one is copied.
            working, self.state = self.policy.observe_into(obs, time_s, state, reset)
        else:
            working, new = self.policy.observe(obs, time_s, state, reset)
            written = self.upload(self.intervention.written(due))
            self.state = {name: where_rows(written, new[name], state[name]) for name in new}
            self.intervention.leave_cue(self.leaving & due, self.state)
            self.leaving &= ~due
        if not acting.any():
            return np.zeros(0, np.float32)
        spec = self.spec  # rows that don't act get noise too, of which nothing comes
        noise = rng.draw_noises(self.seeds(), self.observed, spec.noise_shape, spec.noise_law)
        action = self.policy.act(working, self.upload(noise))
        return np.asarray(action.chunk.float().cpu().numpy())

    def seeds(self) -> list[int]:
        """Returns the episode seed of each row; 0 where there is none."""
        return [job.seed if job else 0 for job in self.jobs]

    def step(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps every live row that isn't waiting; returns (stepped, done), bool [B]."""
        moving = self.live & ~self.waiting
        held = np.asarray(self.infos["held"], bool)
        actions = self.executor.act(self.obs, moving & ~held)
        self.obs, reward, terminated, truncated, self.infos = self.env.step(
            actions, render=self.will_render(moving), active=moving
        )
        self.length += moving
        self.reward += np.where(moving, reward, 0.0)
        return moving, moving & (np.asarray(terminated) | np.asarray(truncated))

    def will_render(self, moving: np.ndarray) -> np.ndarray:
        """Returns the rows whose next tick may be an observation tick; call after `act`.

        Gates can't be foreseen; the environment renders there by itself. Under ``"period"`` the
        next tick is known, a decision is only known to be near.
        """
        if not self.reads_images:
            return np.zeros(self.batch, bool)
        if self.spec.observe_on != PERIOD:
            return moving & self.executor.soon()
        return moving & (self.since >= self.period)

    def finish(self, row: int) -> Iterator[tuple[int, EpisodeResult]]:
        """Yields the row of the episode that ended in `row`; nothing for a donor."""
        job, info = self.jobs[row], {key: value[row] for key, value in self.infos.items()}
        if job.donor:  # it ended before go: there is no memory to swap in
            return
        donor = self.intervention.donors[row]
        happened = self.intervention.happened(row)
        swapped = self.intervention.kind in SWAPS and happened and donor is not None
        commit = str(info["commit"])
        result = EpisodeResult(
            **self.labels,
            seed=job.seed,
            cue=int(info["cue"]),
            success=bool(info["success"]),
            committed=bool(commit),
            commit=commit,
            failure_kind=str(info["failure_kind"]),
            length=int(self.length[row]),
            time_s=float(info["time_s"]),
            reward=float(self.reward[row]),
            observations=int(self.observed[row]),
            state_bytes=self.state_bytes,
            row=row,
            intervene=self.intervention.kind,
            intervened=happened,
            donor_cue=donor.cue if swapped else None,
            followed=self.followed(row, donor) if swapped else None,
            keyframes=self.executor.tally(row),
            state_filled=self.filled(row),
        )
        if self.recorder is not None and self.recorder.wants(job.index):
            self.recorder.finish(job.index, result)
        if self.inspector is not None and self.inspector.wants(job.index):
            self.inspector.finish(job.index)
        yield job.index, result

    def followed(self, row: int, donor: Donor) -> bool:
        """Returns whether the row did what the memory that it was given demanded."""
        return bool(self.env.call("follows", row, donor.cue, donor.target))

    def filled(self, row: int) -> int | None:
        """Returns the bytes of a row's memory in use; None where a server keeps it."""
        if isinstance(self.policy, RemotePolicy):
            return None
        return self.policy.nbytes_filled(take_rows(self.state, [row]))

    def record(self, rows: np.ndarray) -> None:
        """Gives the recorder the frames it wants."""
        if self.recorder is None:
            return
        for row in np.flatnonzero(rows):
            job = self.jobs[row]
            info = {key: value[row] for key, value in self.infos.items()}
            if job is None or job.donor or not self.recorder.wants(job.index, info):
                continue
            camera, size = self.recorder.camera, self.recorder.size
            frame = self.env.call("picture", int(row), camera, size)
            donor = self.intervention.donors[row] if self.intervention.passed[row] else None
            self.recorder.tick(job.index, frame, info, donor.target if donor else "")

    def memory_time_s(self) -> np.ndarray:
        """Returns float64 [B]: what memory is told as the time of the episode."""
        if self.counts_calls:
            return self.observed / self.spec.control_hz
        return np.asarray(self.infos["time_s"], np.float64)

    def look_inside(
        self,
        obs: dict[str, torch.Tensor],
        time_s: torch.Tensor,
        state: dict[str, torch.Tensor],
        reset: torch.Tensor,
    ) -> None:
        """Gives the inspector what explains the tick of the waiting episodes it wants."""
        wanted = self.inspected()
        if self.inspector is not None and wanted:
            report = self.policy.inspect(obs, time_s, state, reset)
            self.inspector.explain(wanted, self.infos, self.observation(), report)

    def inspected(self) -> list[tuple[int, int]]:
        """Returns (row, index) of the waiting episodes that the inspector wants."""
        return [
            (row, job.index)
            for row, job in enumerate(self.jobs)
            if self.inspector is not None
            and self.waiting[row]
            and job
            and not job.donor
            and self.inspector.wants(job.index)
        ]

    def observation(self) -> dict[str, np.ndarray]:
        """Returns what the policy reads of the present observation, whole batch."""
        return {key: self.obs[key] for key in self.spec.observations}

    def upload(self, value: np.ndarray) -> torch.Tensor:
        """Returns `value` on the policy's device."""
        return torch.from_numpy(value).to(self.device, non_blocking=True)

    def check_images(self, due: np.ndarray) -> None:
        """Refuses to show the policy an image of an earlier tick."""
        stale = due & ~np.asarray(self.infos["image_fresh"], bool)
        if stale.any():
            seeds = [self.jobs[row].seed for row in np.flatnonzero(stale)]
            raise SimulatorError(
                f"the environment has no fresh image at an observation tick of seed(s) {seeds}; "
                "it must render at resets, at gates and where it is asked to"
            )


@contextlib.contextmanager
def closing(vec_env: Any) -> Iterator[Any]:
    """Closes a vector env at the end of the block, also after an error."""
    try:
        yield vec_env
    finally:
        vec_env.close()
