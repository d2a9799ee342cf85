"""The imitation trainer: one readable loop for every policy.

Data order, noise and learning rate are functions of (seed, stage, step), so a resumed run equals an
uninterrupted one bit for bit on a CPU. The deployed weights are the averaged ones of the last
step: that is the checkpoint rule, fixed before any evaluation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from embodied import __version__, registry
from embodied.config import from_plain, load_yaml, save_yaml, to_plain
from embodied.core.errors import CheckpointError, ConfigError, SpecMismatch
from embodied.core.files import TEMPORARY_PREFIX
from embodied.core.policy import Policy
from embodied.core.task import EnvConfig
from embodied.core.types import State
from embodied.data.features import attach_features
from embodied.data.segments import SegmentConfig, SegmentDataset
from embodied.device import torch_device
from embodied.train import checkpoint
from embodied.train.config import TrainConfig
from embodied.train.curriculum import Curriculum, validation_name
from embodied.train.logger import MetricsLogger
from embodied.train.optim import (
    Ema,
    learning_rate,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
)

CONFIG_FILE = "config.yaml"


def train(config: TrainConfig, run: str | Path, resume: bool = False) -> Path:
    """Trains a policy by imitation.

    Args:
      config: What to train and how.
      run: Run directory to make, or to carry on from with `resume`.
      resume: Carry on from the newest checkpoint; the configuration must be the same.

    Returns:
      The final checkpoint directory.

    Raises:
      ConfigError: If `run` exists without `resume`, or holds another configuration.
      SpecMismatch, DataError: If data and policy do not fit.
    """
    run = Path(run)
    _check_run_directory(run, config, resume)
    device = torch_device(config.device)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)

    # Data, policy, optimiser.
    dataset = SegmentDataset(
        config.datasets(),
        SegmentConfig(
            config.batch_episodes,
            config.seed,
            stages=config.stage_weights(),
            order=config.order,
            order_ticks=config.order_ticks,
        ),
    )
    _check_dataset(config, dataset)
    policy = _build(config, dataset).to(device)
    optimizer = make_optimizer(policy, config.optim)
    noise = torch.Generator(device=device).manual_seed(config.seed)
    meta = _describe(config, policy, dataset)

    # Where to start.
    start, curriculum = 0, Curriculum(config)
    memory: State | None = None  # goes on from batch to batch in a stream
    ema = Ema(policy, config.optim.ema)
    since_log: dict[str, torch.Tensor] = {}
    validate = _validator(config, dataset) if config.eval_every else None
    found = checkpoint.checkpoints(run) if resume else []
    if found:
        start, since_log, kept = _restore(found[-1], policy, optimizer, ema, noise, device)
        curriculum = Curriculum(config, kept.stage_starts)
        memory = kept.memory
    elif config.init:
        for line in checkpoint.initialise_from(policy, config.init):
            tqdm.write(f"init: {line}")
        ema = Ema(policy, config.optim.ema)

    # Nothing is written before everything that can be refused was looked at.
    if policy.needs_init and not (found or config.init):
        raise ConfigError(
            f"policy={config.policy.name} learns on top of another policy's weights: give "
            "init=RUN, a run or claim of that policy, or policy.config.learn=all to train "
            "everything at once"
        )
    policy.check(_first_ticks(policy, dataset, device), "the training data")
    _make_run_directory(run, config)
    if config.features:
        attach_features(policy, dataset, config.features)
    logger = MetricsLogger(run, start)
    amp = _autocast(config.precision, device)
    final = found[-1] if found else run
    began = time.monotonic()
    with _until_signal() as stop, tqdm(total=config.steps, initial=start, unit="step") as bar:
        for step in range(start, config.steps):
            rate = learning_rate(config.optim, step, config.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            segment = dataset.batch(step, curriculum.at(step))
            segment = segment.map(lambda x: x.to(device, non_blocking=True))
            policy.train()
            if memory is None or config.order != "stream":
                memory = policy.initial_state(config.batch_episodes)
            with amp():
                out = policy.loss(segment, memory, noise)
            memory = {name: tensor.detach() for name, tensor in out.state.items()}
            optimizer.zero_grad(set_to_none=True)
            out.loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.optim.clip_norm)
            optimizer.step()
            ema.update(policy, step)
            for name, value in out.metrics.items():
                past = since_log.get(name, value.new_zeros(0))
                since_log[name] = torch.cat([past, value[None]])

            done = step + 1
            last = done == config.steps or stop()
            if done % config.log_every == 0 or done == config.steps:
                # The only place that waits for the device.
                values = {name: float(past.mean()) for name, past in since_log.items()}
                since_log = {}
                if not all(map(_finite, values.values())):
                    raise ConfigError(
                        f"loss is not finite at step {done} ({values}); lower optim.lr"
                    )
                rows_per_s = (done - start) * config.batch_episodes / (time.monotonic() - began)
                logger.log(
                    step,
                    {**values, "grad_norm": float(norm), "lr": rate, "episodes_per_s": rows_per_s},
                )
                bar.set_postfix({k: f"{v:.3g}" for k, v in values.items()}, refresh=False)
            bar.update()
            if validate and (done % config.eval_every == 0 or done == config.steps):
                values = validate(policy, ema)
                logger.log(step, values)
                curriculum.validated(done, values)
            if done % config.checkpoint_every == 0 or last:
                meta.train["stage_starts"] = curriculum.starts
                kept = Kept(curriculum.starts, memory if config.order == "stream" else None)
                final = _save(run, done, meta, policy, optimizer, ema, noise, since_log, kept)
            if last:
                break
    logger.close()
    return final


# ---- pieces of the loop ----------------------------------------------------------------


def _check_run_directory(run: Path, config: TrainConfig, resume: bool) -> None:
    """Refuses a run that is there already, or, on resuming, one of another configuration."""
    plain = to_plain(config)
    file = run / CONFIG_FILE
    if resume:
        if not file.exists():
            raise CheckpointError(f"{run} has no {CONFIG_FILE}: nothing to resume; drop --resume")
        stored = to_plain(from_plain(TrainConfig, load_yaml(file), source=str(file)))
        differing = [
            f"{key}: {stored[key]!r} in the run, {plain[key]!r} asked for"
            for key in plain
            if stored[key] != plain[key]
        ]
        if differing:
            raise ConfigError(
                f"{run} was started differently ({'; '.join(differing)}); resume it with the same "
                f"keys or with none (embodied train --resume out={run}), or choose another out="
            )
        return
    if run.exists() and not run.is_dir():
        raise ConfigError(f"{run} is a file; choose another directory as out=")
    # What a kill left of writing the configuration itself is nothing to protect or resume.
    if run.exists() and any(not p.name.startswith(TEMPORARY_PREFIX) for p in run.iterdir()):
        what = "pass --resume to carry on, or choose"
        if not file.exists():
            what = f"it is no run (it has no {CONFIG_FILE}); choose"
        raise ConfigError(f"{run} already exists; {what} another out=. Nothing was written")


def _make_run_directory(run: Path, config: TrainConfig) -> None:
    run.mkdir(parents=True, exist_ok=True)
    if not (run / CONFIG_FILE).exists():
        save_yaml(run / CONFIG_FILE, to_plain(config))


def _check_dataset(config: TrainConfig, dataset: SegmentDataset) -> None:
    """Refuses datasets that are not what the configuration names."""
    problems = []
    settings = zip(dataset.stores, config.task, config.task_levels(), strict=True)
    for store, task, level in settings:
        there = store.manifest.settings
        held = (there["task"], there["level"], there["env"]["observation"])
        asked = (task, level, config.observation)
        if held != asked:
            problems.append(f"{store.path} holds {' '.join(held)}, asked for is {' '.join(asked)}")
    if problems:
        raise SpecMismatch(
            f"data of another task, level or observation: {'; '.join(problems)}. Make task=, "
            "level= and observation= say what the data is, or choose another data="
        )


def _build(config: TrainConfig, dataset: SegmentDataset) -> Policy:
    name, options = config.policy.name, dict(config.policy.config)
    options |= {"memory": config.memory.name, "memory_config": dict(config.memory.config)}
    schema = registry.policy_config_class(name)
    policy = registry.policy_class(name)(
        from_plain(schema, options, where="policy.config"), dataset.interface
    )
    horizon, labelled = policy.spec.action.horizon, dataset.label_horizon
    if horizon > labelled:
        raise SpecMismatch(
            f"the policy answers chunks of {horizon} actions, but the data's label chunks have "
            f"{labelled}; lower policy.config.horizon to {labelled}, or derive other data with "
            f"embodied data render ... label_horizon={horizon}"
        )
    policy.set_statistics(dataset.statistics())
    return policy


def _first_ticks(
    policy: Policy, dataset: SegmentDataset, device: torch.device
) -> dict[str, torch.Tensor]:
    """Returns the observations of the first tick of each row of the first batch."""
    obs = dataset.batch(0).obs
    return {key: obs[key][:, 0].to(device) for key in policy.spec.observations}


def _describe(
    config: TrainConfig, policy: Policy, dataset: SegmentDataset
) -> checkpoint.PolicyMeta:
    return checkpoint.PolicyMeta(
        policy=config.policy.name,
        policy_version=policy.version,
        config=to_plain(policy.config),
        interface=dataset.interface.to_json(),
        tasks=dataset.tasks,
        level=dataset.levels[0],
        levels=dataset.levels if len(set(dataset.levels)) > 1 else [],
        env=to_plain(dataset.env),
        train={
            "seed": config.seed,
            "steps": config.steps,
            "batch_episodes": config.batch_episodes,
            "episodes": dataset.episodes,
            "data_seeds": dataset.seed_range,
            "init": config.init,
            "order": config.order,
        },
        package_version=__version__,
    )


@dataclasses.dataclass
class Kept:
    """What a run knows beside weights, optimiser and random states.

    Attributes:
      stage_starts: Steps at which the stages of its curriculum began.
      memory: Memory that goes on in a stream; None in other orders.
    """

    stage_starts: list[int]
    memory: State | None = None


def _save(
    run: Path,
    step: int,
    meta: checkpoint.PolicyMeta,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    ema: Ema,
    noise: torch.Generator,
    since_log: dict[str, torch.Tensor],
    kept: Kept,
) -> Path:
    weights = {k: v.detach().clone().contiguous() for k, v in policy.state_dict().items()}
    return checkpoint.write_checkpoint(
        run,
        step,
        meta,
        ema.weights,
        {
            "weights": weights,
            "optimizer": optimizer_tensors(optimizer),
            "log": since_log,
            "random": {
                "noise": noise.get_state().clone(),
                "global": torch.get_rng_state().clone(),
            },
            **({} if kept.memory is None else {"memory": kept.memory}),
        },
        {"stage_starts": kept.stage_starts},
    )


def _restore(
    directory: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    ema: Ema,
    noise: torch.Generator,
    device: torch.device,
) -> tuple[int, dict[str, torch.Tensor], Kept]:
    checkpoint.refuse_version(checkpoint.read_meta(directory), policy.version)
    info, tensors = checkpoint.read_train_state(directory)
    missing = {"weights", "optimizer", "random", "log"} - tensors.keys()
    if missing:
        raise CheckpointError(
            f"{directory / checkpoint.TRAIN_STATE} lacks {', '.join(sorted(missing))}.safetensors; "
            f"remove {directory}, so that the run carries on from the checkpoint before it"
        )
    own = policy.state_dict()
    place = directory / checkpoint.TRAIN_STATE / "weights.safetensors"
    checkpoint.refuse_weights(tensors["weights"], own, place)
    policy.load_state_dict({k: v.to(device) for k, v in tensors["weights"].items()})
    averaged = checkpoint.read_weights(directory / checkpoint.MODEL_FILE)
    checkpoint.refuse_weights(averaged, own, directory / checkpoint.MODEL_FILE)
    ema.weights = {k: v.to(device) for k, v in averaged.items()}
    restore_optimizer(optimizer, tensors["optimizer"])
    noise.set_state(tensors["random"]["noise"])
    torch.set_rng_state(tensors["random"]["global"])
    since_log = {name: value.to(device) for name, value in tensors["log"].items()}
    memory = tensors.get("memory")
    memory = memory and {name: value.to(device) for name, value in memory.items()}
    return int(info["step"]), since_log, Kept(info.get("stage_starts", [0]), memory)


def _validator(
    config: TrainConfig, dataset: SegmentDataset
) -> Callable[[Policy, Ema], dict[str, float]]:
    """Returns a function that measures success on validation seeds with averaged weights."""
    from embodied.core.rng import VALIDATION_SEED_START
    from embodied.evaluate.runner import run as run_episodes

    seeds = list(range(VALIDATION_SEED_START, VALIDATION_SEED_START + config.eval_episodes))
    env: EnvConfig = dataset.env
    vectors = {
        (task, level): registry.make_vec(
            task, level, env, num_envs=min(10, config.eval_episodes), autoreset="disabled"
        )
        for task, level in zip(dataset.tasks, dataset.levels, strict=True)
    }

    def validate(policy: Policy, ema: Ema) -> dict[str, float]:
        own = {k: v.detach().clone() for k, v in policy.state_dict().items()}
        policy.load_state_dict(ema.weights)
        policy.eval()
        values = {}
        for (task, level), vector in vectors.items():
            results = run_episodes(policy, vector, seeds, progress=False)
            success = sum(r.success for r in results) / len(results)
            values[validation_name(task, level)] = success
        policy.load_state_dict(own)
        return values

    return validate


def _autocast(precision: str, device: torch.device) -> Callable[[], Any]:
    """Returns a context for the forward pass; bf16 only where the hardware is fast at it."""
    if precision == "auto":
        # On a CPU, AVX-512 bf16 alone helps these small networks little: fp32 is the default.
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if fast else "fp32"
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)


@contextlib.contextmanager
def _until_signal() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into 'write a checkpoint and stop' while the loop runs."""
    caught: list[int] = []

    def note(number: int, _frame: Any) -> None:
        caught.append(number)

    try:
        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: leave signals alone
        old = {}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
