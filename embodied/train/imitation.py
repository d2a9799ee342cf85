"""The imitation trainer: one readable loop for every policy.

Data order, noise and learning rate are functions of (seed, stage, step), so a resumed run equals an
uninterrupted one bit for bit on a CPU. The deployed weights are the averaged ones of the last
step: that is the checkpoint rule, fixed before any evaluation.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from embodied import __version__, registry
from embodied.config import from_plain, to_plain
from embodied.core.errors import ConfigError, DataError, SpecMismatch
from embodied.core.files import held_directory
from embodied.core.policy import Policy
from embodied.core.task import EnvConfig
from embodied.core.types import State
from embodied.data.features import attach_features
from embodied.data.segments import SegmentConfig, SegmentDataset
from embodied.device import torch_device
from embodied.memory.order import check_time_order
from embodied.train import checkpoint
from embodied.train.config import TrainConfig
from embodied.train.curriculum import Curriculum, validation_name
from embodied.train.learner import Learner
from embodied.train.logger import MetricsLogger
from embodied.train.optim import Ema
from embodied.train.run import autocast, check_run_directory, until_signal, write_config


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
      DataError: If another process is at work in `run`, the data is damaged, or `run` learnt from
        other data so far.
      SpecMismatch: If data and policy do not fit.
    """
    run = Path(run)
    check_run_directory(run, config, resume)
    with held_directory(run), contextlib.ExitStack() as opened:
        return _train(config, run, resume, opened)


def _train(config: TrainConfig, run: Path, resume: bool, opened: contextlib.ExitStack) -> Path:
    device = torch_device(config.device)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)

    # Data, policy, optimiser.
    _check_collected(config)
    dataset = SegmentDataset(
        config.datasets(),
        SegmentConfig(
            config.batch_episodes,
            config.seed,
            stages=config.stage_weights(),
            order=config.order,
            order_ticks=config.order_ticks,
            cache=config.cache,
            pinned=device.type == "cuda",
        ),
    )
    _check_dataset(config, dataset)
    found = checkpoint.checkpoints(run) if resume else []
    earlier = checkpoint.read_meta(found[-1]) if found else None
    if earlier:
        _refuse_other_data(dataset, earlier, run)
    elif config.init:
        earlier = checkpoint.read_meta(checkpoint.resolve(config.init))
    policy = _build(config, dataset).to(device)
    learner = Learner(policy, config, device)
    meta = _describe(config, policy, dataset, earlier)

    # Where to start.
    start, curriculum = 0, Curriculum(config)
    memory: State | None = None  # goes on from batch to batch in a stream
    validate = _validator(config, dataset, opened) if config.eval_every else None
    if found:
        info, kept = learner.restore(found[-1])
        start, curriculum = int(info["step"]), Curriculum(config, info.get("stage_starts"))
        memory = kept.get("memory") and {k: v.to(device) for k, v in kept["memory"].items()}
    elif config.init:
        for line in learner.initialise(config.init):
            tqdm.write(f"init: {line}")

    # Nothing is written before everything that can be refused was looked at.
    if policy.needs_init and not (found or config.init):
        raise ConfigError(
            f"policy={config.policy.name} learns on top of another policy's weights: give "
            "init=RUN, a run or claim of that policy, or policy.config.learn=all to train "
            "everything at once"
        )
    for index, store in enumerate(dataset.stores):
        policy.check(_first_ticks(policy, dataset, index, device), f"the data in {store.path}")
    write_config(run, config)
    if config.features:
        attach_features(policy, dataset, config.features)
    logger = opened.enter_context(contextlib.closing(MetricsLogger(run, start)))
    amp = autocast(config.precision, device)
    final = found[-1] if found else run
    began = time.monotonic()
    with until_signal() as stop, tqdm(total=config.steps, initial=start, unit="step") as bar:
        for step in range(start, config.steps):
            rate = learner.rate(step)
            segment = dataset.batch(step, curriculum.at(step))
            check_time_order(segment.time_s, segment.is_first, segment.valid)
            segment = segment.map(lambda x: x.to(device, non_blocking=True))
            policy.train()
            if memory is None or config.order != "stream":
                memory = policy.initial_state(config.batch_episodes)
            with amp():
                out = policy.loss(segment, memory, learner.noise)
            memory = {name: tensor.detach() for name, tensor in out.state.items()}
            norm = learner.update(out.loss)
            learner.ema.update(policy, step)
            learner.note(out.metrics)

            done = step + 1
            last = done == config.steps or stop()
            if done % config.log_every == 0 or done == config.steps:
                # The only place that waits for the device.
                values = learner.averages(done)
                rows_per_s = (done - start) * config.batch_episodes / (time.monotonic() - began)
                logger.log(
                    step,
                    {
                        **values,
                        "grad_norm": float(norm),
                        "lr": rate,
                        "episodes_per_s": rows_per_s,
                        "cpu_s": logger.cpu_s(),
                    },
                )
                bar.set_postfix({k: f"{v:.3g}" for k, v in values.items()}, refresh=False)
            bar.update()
            if validate and (done % config.eval_every == 0 or done == config.steps):
                values = validate(policy, learner.ema)
                logger.log(step, values)
                curriculum.validated(done, values)
            if done % config.checkpoint_every == 0 or last:
                meta.train["stage_starts"] = curriculum.starts
                more = {"memory": memory} if config.order == "stream" else {}
                final = learner.save(run, done, meta, more, {"stage_starts": curriculum.starts})
            if last:
                break
    return final


# ---- pieces of the loop ----------------------------------------------------------------


def _check_collected(config: TrainConfig) -> None:
    """Refuses datasets that are not there, with the command that collects what is asked for."""
    settings = zip(config.datasets(), config.task, config.task_levels(), strict=True)
    for directory, task, level in settings:
        if not Path(directory).exists():
            out = f" out={directory}" if config.data else ""
            raise DataError(
                f"there is no dataset at {directory}; make one with `embodied collect task={task} "
                f"level={level} observation={config.observation}{out}`"
            )


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


def _refuse_other_data(dataset: SegmentDataset, earlier: checkpoint.PolicyMeta, run: Path) -> None:
    """Refuses datasets of another content than those that a run learnt from so far."""
    known = earlier.train.get("data_sha256")
    if known is None:  # begun before it was kept
        return
    for store, before, now in zip(dataset.stores, known, _contents(dataset), strict=True):
        if now != before:
            raise DataError(
                f"{store.path} is not the data that {run} learnt from so far: its content is "
                f"{now[:16]}..., expected {before[:16]}... (`embodied data show`); it was extended "
                f"or made anew. Put it back as it was, or start anew with another out= (init={run} "
                "starts from these weights)"
            )


def _contents(dataset: SegmentDataset) -> list[str]:
    return [store.manifest.content_sha256 for store in dataset.stores]


def _all_seeds(own: list[int], earlier: checkpoint.PolicyMeta | None) -> list[int]:
    """Returns the range that encloses these seeds and those that `earlier` learnt from."""
    known = (earlier and earlier.train.get("data_seeds")) or own
    return [min(own[0], known[0]), max(own[1], known[1])]


def _build(config: TrainConfig, dataset: SegmentDataset) -> Policy:
    name, options = config.policy.name, dict(config.policy.config)
    options |= {"memory": config.memory.name, "memory_config": dict(config.memory.config)}
    policy_class = registry.policy_class(name)
    if policy_class.loss is Policy.loss:
        raise ConfigError(
            f"policy={name} does not learn by imitation; choose algorithm=ppo or vtrace, or "
            "another policy"
        )
    schema = registry.policy_config_class(name)
    policy = policy_class(from_plain(schema, options, where="policy.config"), dataset.interface)
    horizon, labelled = policy.spec.action.horizon, dataset.label_horizon
    if horizon > labelled:
        raise SpecMismatch(
            f"the policy answers chunks of {horizon} actions, but the data's label chunks have "
            f"{labelled}; lower policy.config.horizon to {labelled}, or derive other data with "
            f"embodied data render ... label_horizon={horizon}"
        )
    dataset.select(policy.spec.observations)
    policy.set_statistics(dataset.statistics(policy.statistics_keys()))
    return policy


def _first_ticks(
    policy: Policy, dataset: SegmentDataset, index: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Returns the first observations of the first and the last episode of one of the datasets."""
    ends = (0, len(dataset.stores[index]) - 1)
    obs = [dataset.whole(index, episode).obs for episode in ends]
    keys = policy.spec.observations
    return {key: torch.cat([one[key][:, 0] for one in obs]).to(device) for key in keys}


def _describe(
    config: TrainConfig,
    policy: Policy,
    dataset: SegmentDataset,
    earlier: checkpoint.PolicyMeta | None,
) -> checkpoint.PolicyMeta:
    """Describes a run that carries on or starts from what `earlier` describes."""
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
            "data_seeds": _all_seeds(dataset.seed_range, earlier),
            "data_sha256": _contents(dataset),
            "init": config.init,
            "order": config.order,
        },
        package_version=__version__,
    )


def _validator(
    config: TrainConfig, dataset: SegmentDataset, opened: contextlib.ExitStack
) -> Callable[[Policy, Ema], dict[str, float]]:
    """Returns a function that measures success on validation seeds with averaged weights.

    Its environments are closed with `opened`.
    """
    from embodied.core.rng import VALIDATION_SEED_START
    from embodied.evaluate.runner import closing
    from embodied.evaluate.runner import run as run_episodes

    seeds = list(range(VALIDATION_SEED_START, VALIDATION_SEED_START + config.eval_episodes))
    env: EnvConfig = dataset.env
    vectors = {}
    for setting in zip(dataset.tasks, dataset.levels, strict=True):
        rows = min(10, config.eval_episodes)
        vector = registry.make_vec(*setting, env, num_envs=rows, autoreset="disabled")
        vectors[setting] = opened.enter_context(closing(vector))

    def validate(policy: Policy, ema: Ema) -> dict[str, float]:
        policy.eval()
        values = {}
        with ema.applied(policy):
            for (task, level), vector in vectors.items():
                results = run_episodes(policy, vector, seeds, progress=False)
                success = sum(r.success for r in results) / len(results)
                values[validation_name(task, level)] = success
        return values

    return validate
