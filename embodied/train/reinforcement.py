"""The reinforcement trainer: PPO or V-trace, one readable loop for every policy with `evaluate`.

A step of the run collects a segment in all rows and learns from it. What is drawn depends on the
seed and on the step alone, and environments and memory are saved with a checkpoint, so a resumed
run equals an uninterrupted one bit for bit on a CPU. The deployed weights are the averaged ones of
the last step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from embodied import __version__, registry
from embodied.config import from_plain, to_plain
from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.files import held_directory
from embodied.core.policy import Policy
from embodied.core.rng import VALIDATION_SEED_START
from embodied.core.specs import Interface
from embodied.device import torch_device
from embodied.train import checkpoint
from embodied.train.config import PPO, ReinforceConfig, TrainConfig
from embodied.train.curriculum import Curriculum, validation_name
from embodied.train.learner import Learner
from embodied.train.logger import MetricsLogger
from embodied.train.returns import gae, vtrace
from embodied.train.rollout import Experience, Rollout, Setting, interface_of
from embodied.train.run import autocast, check_run_directory, until_signal, write_config


def train(config: TrainConfig, run: str | Path, resume: bool = False) -> Path:
    """Trains a policy by reinforcement.

    Args:
      config: What to train and how; ``algorithm`` is ``"ppo"`` or ``"vtrace"``.
      run: Run directory to make, or to carry on from with `resume`.
      resume: Carry on from the newest checkpoint; the configuration must be the same.

    Returns:
      The final checkpoint directory.

    Raises:
      ConfigError: If `run` exists without `resume`, or holds another configuration.
      DataError: If another process is at work in `run`.
      SpecMismatch: If tasks and policy do not fit.
    """
    run = Path(run)
    check_run_directory(run, config, resume)
    with held_directory(run), contextlib.ExitStack() as opened:
        return _train(config, run, resume, opened)


def _train(config: TrainConfig, run: Path, resume: bool, opened: contextlib.ExitStack) -> Path:
    device = torch_device(config.device)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    learning = config.reinforce

    # Environments, policy, optimiser.
    settings: list[Setting] = list(zip(config.task, config.task_levels(), strict=True))
    policy = _build(config, _common_interface(settings, learning)).to(device)
    learner = Learner(policy, config, device)
    start, curriculum = 0, Curriculum(config)
    found = checkpoint.checkpoints(run) if resume else []
    if found:
        info, kept = learner.restore(found[-1])
        start, curriculum = int(info["step"]), Curriculum(config, info["stage_starts"])
    elif config.init:
        for line in learner.initialise(config.init):
            tqdm.write(f"init: {line}")
    stage = curriculum.before(start)  # a checkpoint's rows lie as the step before it had them
    rollout = Rollout(policy, learning, settings, _weights(config, stage), device)
    opened.enter_context(contextlib.closing(rollout))
    if found:
        rollout.restore(kept)

    write_config(run, config)
    meta = _describe(config, policy)
    logger = opened.enter_context(contextlib.closing(MetricsLogger(run, start)))
    amp = autocast(config.precision, device)
    shuffle = torch.Generator()
    final = found[-1] if found else run
    began, frames = time.monotonic(), rollout.frames
    with until_signal() as stop, tqdm(total=config.steps, initial=start, unit="step") as bar:
        for step in range(start, config.steps):
            rate = learner.rate(step)
            if curriculum.at(step) != stage:
                stage = curriculum.at(step)
                rollout.place(_weights(config, stage))
            with amp():  # as in learning, or the first ratios would be off 1
                experience = rollout.collect(learner.noise)
            shuffle.manual_seed(config.seed * 1_000_003 + step)
            for _ in range(learning.epochs):
                order = torch.randperm(learning.rows, generator=shuffle).to(device)
                for rows in order.chunk(learning.minibatches):
                    with amp():
                        loss, metrics = update_loss(
                            policy, experience.rows(rows), learning, config.algorithm
                        )
                    norm = learner.update(loss)
                    learner.note({**metrics, "grad_norm": norm})
            learner.ema.update(policy, step)

            done = step + 1
            last = done == config.steps or stop()
            success = rollout.success()
            curriculum.validated(done, {validation_name(*s): v for s, v in success.items()})
            if done % config.log_every == 0 or done == config.steps:
                values = learner.averages(done)
                speed = (rollout.frames - frames) / (time.monotonic() - began)
                shown = {f"success/{task}-{level}": v for (task, level), v in success.items()}
                logger.log(
                    step,
                    {
                        **values,
                        **shown,
                        "stage": stage,
                        "frames": rollout.frames,
                        "lr": rate,
                        "frames_per_s": speed,
                        "cpu_s": logger.cpu_s(),
                    },
                )
                mean = sum(success.values()) / len(success) if success else float("nan")
                brief = {"success": f"{mean:.3f}", "frames/s": f"{speed:,.0f}"}
                bar.set_postfix({**brief, "stage": stage + 1}, refresh=False)
            bar.update()
            if done % config.checkpoint_every == 0 or last:
                meta.train |= {"stage_starts": curriculum.starts, "frames": rollout.frames}
                final = learner.save(
                    run, done, meta, rollout.save(), {"stage_starts": curriculum.starts}
                )
            if last:
                break
    return final


# ---- the loss --------------------------------------------------------------------------


def update_loss(
    policy: Policy, experience: Experience, config: ReinforceConfig, algorithm: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns what to minimise on some rows, and scalars for the log.

    Args:
      policy: Evaluates the actions under its present weights.
      experience: Segments of the rows.
      config: Weights, clips and discounts.
      algorithm: ``"ppo"`` or ``"vtrace"``.
    """
    out, decisions = policy.evaluate(experience.segment, experience.entry), experience.decisions
    log_prob, value = decisions.take(out.log_prob), decisions.take(out.value)
    log_ratio = log_prob - decisions.take(experience.log_prob)
    advantage, target = _estimates(
        experience, value.detach(), log_ratio.detach(), config, algorithm
    )
    known = decisions.known
    if config.normalize:
        advantage = _normalized(advantage, known, config.least_spread)
    if algorithm == PPO:
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        gain = torch.minimum(ratio * advantage, clipped * advantage)
    else:
        gain = log_prob * advantage
    policy_loss = -_mean(gain, known)
    value_loss = 0.5 * _mean((value - target).square(), known)
    entropy = _mean(decisions.take(out.entropy), known)
    loss = policy_loss + config.value_weight * value_loss - config.entropy * entropy
    for extra in out.aux_losses.values():
        loss = loss + extra
    metrics = {
        "loss": loss.detach(),
        "policy_loss": policy_loss.detach(),
        "value_loss": value_loss.detach(),
        "entropy": entropy.detach(),
        "kl": _mean(log_ratio.exp() - 1 - log_ratio, known).detach(),
        "decisions": known.float().mean(),
        **{name: extra.detach() for name, extra in out.aux_losses.items()},
    }
    return loss, metrics


@torch.no_grad()
def _estimates(
    experience: Experience,
    value: Tensor,
    log_ratio: Tensor,
    config: ReinforceConfig,
    algorithm: str,
) -> tuple[Tensor, Tensor]:
    """Returns advantages and value targets [B, N]: PPO's of when it acted, V-trace's of now."""
    decisions = experience.decisions
    if algorithm == PPO:
        value = decisions.take(experience.value)
        following = decisions.following(value, experience.beyond)
        return gae(value, following, decisions, config.lam)
    following = decisions.following(value, experience.beyond)
    return vtrace(
        log_ratio, value, following, decisions, config.lam, config.rho_clip, config.c_clip
    )


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, values, 0.0).sum() / known.sum().clamp(min=1)


def _normalized(advantage: Tensor, known: Tensor, least: float) -> Tensor:
    """Centres known advantages and divides them by their spread; a single one stays as it is."""
    off = advantage - _mean(advantage, known)
    spread = _mean(off.square(), known).sqrt().clamp(min=least)
    return torch.where(known.sum() > 1, off / spread, advantage)


# ---- pieces of the loop ----------------------------------------------------------------


def _weights(config: TrainConfig, stage: int) -> list[float]:
    return config.stage_weights()[stage] or [1.0] * len(config.task)


def _common_interface(settings: list[Setting], config: ReinforceConfig) -> Interface:
    """Returns the interface of all tasks, which must look alike and take the same actions.

    Raises:
      SpecMismatch: Naming two that differ.
    """
    interfaces = {}
    for task, level in settings:
        env = registry.make_vec(task, level, config.env, num_envs=1)
        interfaces[f"{task} {level}"] = interface_of(env)
        env.close()
    (first, found), *others = interfaces.items()
    for name, other in others:
        same = (found.observations, found.action_size, found.action_kind, found.control_hz)
        if same != (other.observations, other.action_size, other.action_kind, other.control_hz):
            raise SpecMismatch(
                f"{first} and {name} differ in observations, actions or clock, so one policy can't "
                "learn both; train them in runs of their own"
            )
    return dataclasses.replace(found, max_ticks=max(i.max_ticks for i in interfaces.values()))


def _build(config: TrainConfig, interface: Interface) -> Policy:
    name, options = config.policy.name, dict(config.policy.config)
    options |= {"memory": config.memory.name, "memory_config": dict(config.memory.config)}
    policy_class = registry.policy_class(name)
    if policy_class.evaluate is Policy.evaluate:
        raise ConfigError(
            f"policy={name} does not learn by reinforcement; choose policy=hcam, or "
            "algorithm=imitation and demonstrations"
        )
    schema = registry.policy_config_class(name)
    return policy_class(from_plain(schema, options, where="policy.config"), interface)


def _describe(config: TrainConfig, policy: Policy) -> checkpoint.PolicyMeta:
    levels = config.task_levels()
    return checkpoint.PolicyMeta(
        policy=config.policy.name,
        policy_version=policy.version,
        config=to_plain(policy.config),
        interface=policy.interface.to_json(),
        tasks=config.task,
        level=levels[0],
        levels=levels if len(set(levels)) > 1 else [],
        env=to_plain(config.reinforce.env),
        train={
            "seed": config.seed,
            "steps": config.steps,
            "algorithm": config.algorithm,
            "data_seeds": [0, VALIDATION_SEED_START - 1],
            "init": config.init,
        },
        package_version=__version__,
    )
