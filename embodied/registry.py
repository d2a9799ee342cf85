"""The one place that knows the names of policies, memories and tasks.

Built-in names stand in closed tables; what a user installs joins through the Python entry
points ``embodied.policies`` (a `Policy` class whose ``Config`` is a dataclass) and
``embodied.tasks`` (a `TaskInfo`). A name from a file or a command line only ever selects a
row; it is never imported. Everything is imported when first asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embodied.core.errors import ConfigError, EmbodiedError, unknown_name
from embodied.core.files import read_json
from embodied.core.task import IMITATION, EnvConfig, TaskInfo
from embodied.extras import named_extras

if TYPE_CHECKING:
    import gymnasium

    from embodied.core.policy import Policy

TASK_GROUP = "embodied.tasks"
POLICY_GROUP = "embodied.policies"
CERTIFICATES = "certificates"


@dataclasses.dataclass(frozen=True)
class PolicyRow:
    """One built-in policy.

    Attributes:
      entry: ``"module:Class"`` of the policy.
      config: ``"module:Class"`` of its configuration dataclass.
      summary: One line for `embodied list`.
    """

    entry: str
    config: str
    summary: str


POLICIES = {
    "memory_vla": PolicyRow(
        "policies.memory_vla.policy:MemoryVLA",
        "policies.memory_vla.config:MemoryVLAConfig",
        "vision-language-action policy with a perceptual-cognitive memory bank",
    ),
    "sam2act": PolicyRow(
        "policies.sam2act.policy:SAM2Act",
        "policies.sam2act.config:SAM2ActConfig",
        "keyframe policy: three views of a point cloud, coarse and fine; no memory",
    ),
    "sam2act_plus": PolicyRow(
        "policies.sam2act.policy:SAM2ActPlus",
        "policies.sam2act.config:SAM2ActPlusConfig",
        "the same with a spatial memory, learnt on top of a sam2act (init=)",
    ),
    "hcam": PolicyRow(
        "policies.hcam.policy:HCAM",
        "policies.hcam.config:HCAMConfig",
        "agent with a memory of vectors, hierarchical chunks by default; learns by reinforcement",
    ),
}


# ---------------------------------------------------------------- tasks


def task_names(learned_by: str | None = None) -> list[str]:
    """Returns the names of all tasks, built in and installed, sorted.

    Args:
      learned_by: Only those learned by ``"imitation"`` or by ``"reinforcement"``.
    """
    names = sorted({*_builtin_tasks(), *_entry_points(TASK_GROUP)})
    return [n for n in names if learned_by is None or task_info(n).learned_by == learned_by]


def suite_tasks() -> list[str]:
    """Returns the built-in tasks that an arm needs memory for, at its easiest: ``suite=all``."""
    rows = [info for info in _builtin_tasks().values() if info.learned_by == IMITATION]
    return [info.name for info in rows if info.needs_memory(next(iter(info.levels.values())))]


def task_info(name: str) -> TaskInfo:
    """Returns a task's row.

    Raises:
      ConfigError: For an unknown name; names the nearest one.
    """
    tasks = _builtin_tasks()
    if name in tasks:
        return tasks[name]
    installed = _entry_points(TASK_GROUP)
    if name not in installed:
        raise unknown_name("task", name, [*tasks, *installed])
    with named_extras():
        info = installed[name].load()
    if not isinstance(info, TaskInfo) or info.name != name:
        raise ConfigError(
            f"entry point {name!r} of {TASK_GROUP} ({installed[name].value}): expected a TaskInfo "
            f"named {name!r}, got {getattr(info, 'name', type(info).__name__)!r}; mend the package"
        )
    return info


def task_words(name: str) -> tuple[str, tuple[str, ...]]:
    """Returns what a task is in its own words: the text of its module, and its instructions.

    Raises:
      ConfigError: For an unknown name.
    """
    module, task = _task(task_info(name))
    instructions = getattr(task, "instructions", ())
    return inspect.cleandoc(module.__doc__ or ""), tuple(instructions)


def check_knobs(task: str, level: str, overrides: Mapping[str, Any] | None = None) -> None:
    """Refuses knobs that a task of an arm can't be made with; makes no scene.

    Raises:
      ConfigError: For an unknown task, level or knob, or a value out of the task's range.
    """
    info = imitation_task(task)
    knobs = info.knobs(level, overrides)
    _task(info)[1](knobs)


def _task(info: TaskInfo) -> tuple[Any, Any]:
    """Returns the module and the class of a task."""
    if info.name in _builtin_tasks():
        neighbour("sims")
    module, _, attribute = info.entry.partition(":")
    with named_extras():
        loaded = importlib.import_module(module)
    return loaded, getattr(loaded, attribute)


def imitation_task(name: str) -> TaskInfo:
    """Returns the row of a task whose expert can be demonstrated, filmed and certified.

    Raises:
      ConfigError: For an unknown name, or a task that is learned by reinforcement.
    """
    info = task_info(name)
    if info.learned_by != IMITATION:
        raise ConfigError(
            f"{name} is learned by reinforcement: there is no arm whose demonstrations could be "
            f"collected or certified. Use its environment: gymnasium.make({info.env_id!r}), or "
            "embodied.registry.make_vec for many rows at once. Tasks with "
            f"demonstrations: {', '.join(task_names(IMITATION))}"
        )
    return info


def make_env(
    task: str, level: str, config: EnvConfig | None = None, **kwargs: Any
) -> gymnasium.Env[Any, Any]:
    """Makes one environment of a task.

    Args:
      task: Task name, for example ``"remember_color"``.
      level: Level name of that task.
      config: Observation, cameras, control, visuals, reward and knobs.
      **kwargs: Further arguments of the environment, for example ``render_every_step``.

    Raises:
      ConfigError: For an unknown task, level or knob.
      MissingExtra: If the simulator is not installed.
    """
    info = _checked(task, level, config)
    with named_extras():
        import gymnasium

        sims = neighbour("sims")
        arguments = {**info.env_kwargs(config or EnvConfig()), "level": level, **kwargs}
        if task in _builtin_tasks():
            return gymnasium.make(info.env_id, **arguments)
        # Installed tasks have no Gymnasium id of ours; their row says everything.
        return sims.make_env(info, **arguments)


def make_vec(
    task: str,
    level: str,
    config: EnvConfig | None = None,
    num_envs: int = 1,
    num_workers: int = 0,
    autoreset: str = "disabled",
    **kwargs: Any,
) -> Any:
    """Makes a vector environment; `num_workers` 0 steps all rows in this process.

    Raises:
      ConfigError: For an unknown task, level or knob.
      MissingExtra: If the simulator is not installed.
    """
    info = _checked(task, level, config)
    with named_extras():
        sims = neighbour("sims")
        arguments = {**info.env_kwargs(config or EnvConfig()), **kwargs}
        return sims.make_vec(
            task if task in _builtin_tasks() else info,
            num_envs=num_envs,
            num_workers=num_workers,
            autoreset=autoreset,
            level=level,
            **arguments,
        )


def certifier() -> Any:
    """Returns the module that certifies tasks; imports the simulator when it is used."""
    neighbour("sims")
    with named_extras():
        return importlib.import_module("sims.memory_bench.certify")


def certificate(task: str) -> dict[str, Any] | None:
    """Returns a task's stored certificate, or None if it has none.

    Those of built-in tasks come with the package. Of a task of another package it is
    ``certificates/<task>.json`` beside the module that its row names, or else in the working
    directory, where `embodied certify` writes it. A task of a package that isn't installed here has
    none: its results can still be reported.

    Raises:
      ConfigError: For a file of another task or version, or of other knobs than a level has now.
    """
    if task not in task_names():
        return None
    info = task_info(task)
    file = next((f for f in _certificate_files(info) if f.exists()), None)
    if file is None:
        return None
    found: dict[str, Any] = read_json(file)
    known = {"task": task, "env_id": info.env_id}
    wrong = [f"{key} {found.get(key)!r}, not {known[key]!r}" for key in known
             if found.get(key) != known[key]]  # fmt: skip
    wrong += [
        f"other knobs at {level}"
        for level, proof in found.get("levels", {}).items()
        if level in info.levels and proof.get("knobs") != info.knobs(level)
    ]
    if wrong:
        raise ConfigError(
            f"{file} certifies {'; '.join(wrong)}; make it anew with `embodied certify {task} "
            f"level=all out={file.parent}`"
        )
    return found


def _certificate_files(info: TaskInfo) -> list[Path]:
    """Returns where a task's certificate may lie, the first that counts first."""
    name = f"{info.name}.json"
    if info.name in _builtin_tasks():
        suite = Path(neighbour("sims").__file__).parent / "memory_bench"
        return [suite / CERTIFICATES / name]
    module = importlib.util.find_spec(info.entry.partition(":")[0])
    beside = [Path(module.origin).parent] if module and module.origin else []
    return [place / CERTIFICATES / name for place in (*beside, Path())]


def expert_success(task: str, level: str, control: str) -> float | None:
    """Returns the certified success of the privileged expert, or None if never measured."""
    value: Any = certificate(task)
    for key in ("levels", level, "expert", control, "success"):
        value = value.get(key) if isinstance(value, dict) else None
    return None if value is None else float(value)


def time_aware_ceiling(
    task: str, level: str, knobs: Mapping[str, Any]
) -> tuple[float, float] | None:
    """Returns bounds of the best success without memory but with a clock since the reset.

    Args:
      task: Task name.
      level: Level name.
      knobs: All knobs in force.

    Returns:
      Two fractions, or None where no certificate holds for these knobs.
    """
    proof = ((certificate(task) or {}).get("levels") or {}).get(level)
    if proof is None or proof["knobs"] != dict(knobs):
        return None
    found = proof["ceiling"]["time_aware"]
    return found["low"], found["high"]


def _checked(task: str, level: str, config: EnvConfig | None) -> TaskInfo:
    info = task_info(task)
    info.knobs(level, config.knobs if config else None)
    return info


@functools.cache
def _builtin_tasks() -> Mapping[str, TaskInfo]:
    return neighbour("sims").task_infos()


# ---------------------------------------------------------------- policies


def policy_names() -> list[str]:
    """Returns the names of all policies, built in and installed, sorted."""
    return sorted({*POLICIES, *_entry_points(POLICY_GROUP)})


def policy_class(name: str) -> type[Policy]:
    """Returns a policy's class; imports torch.

    Raises:
      ConfigError: For an unknown name; names the nearest one.
      MissingExtra: If torch is not installed.
    """
    with named_extras():
        if name in POLICIES:
            return _resolve(POLICIES[name].entry)
        return _installed_policy(name)


def policy_config_class(name: str) -> type:
    """Returns the dataclass that configures a policy.

    Raises:
      ConfigError: For an unknown name; names the nearest one.
    """
    with named_extras():
        if name in POLICIES:
            return _resolve(POLICIES[name].config)
        return _installed_policy(name).Config


def policy_summary(name: str) -> str:
    """Returns one line about a policy."""
    if name in POLICIES:
        return POLICIES[name].summary
    return f"installed by {_entry_points(POLICY_GROUP)[name].value}"


def _installed_policy(name: str) -> Any:
    installed = _entry_points(POLICY_GROUP)
    if name not in installed:
        raise unknown_name("policy", name, policy_names())
    cls = installed[name].load()
    if not dataclasses.is_dataclass(getattr(cls, "Config", None)):
        raise ConfigError(
            f"entry point {name!r} of {POLICY_GROUP} ({installed[name].value}): expected a policy "
            "class whose attribute Config is a dataclass; mend the package"
        )
    return cls


# ---------------------------------------------------------------- memories


def memory_names() -> list[str]:
    """Returns the names of all memories, ``none`` (the memoryless twin) among them."""
    with named_extras():
        return sorted(importlib.import_module("embodied.memory").MEMORIES)


# ---------------------------------------------------------------- imports


@functools.cache
def neighbour(package: str) -> Any:
    """Imports ``policies`` or ``sims``, making sure that it is the one beside ``embodied``.

    Those names are common: another distribution, or a folder in the working directory, may
    offer them too.

    Raises:
      EmbodiedError: If the package is missing or lies elsewhere.
    """
    expected = Path(__file__).resolve().parent.parent / package
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    found = {Path(place).resolve() for place in places}
    if found != {expected}:
        where = ", ".join(map(str, sorted(found))) or "nowhere"
        raise EmbodiedError(
            f"the package {package!r} belongs at {expected}, beside 'embodied', but Python finds "
            f"it at {where}; leave a working directory or uninstall a distribution that has a "
            f"{package!r} of its own, or reinstall embodied-memory"
        )
    return importlib.import_module(package)


def _resolve(entry: str) -> Any:
    """Imports ``"module:name"`` of a built-in table."""
    module, _, name = entry.partition(":")
    neighbour(module.partition(".")[0])
    return getattr(importlib.import_module(module), name)


@functools.cache
def _entry_points(group: str) -> Mapping[str, importlib.metadata.EntryPoint]:
    found: dict[str, importlib.metadata.EntryPoint] = {}
    builtin = set(POLICIES) if group == POLICY_GROUP else set(_builtin_tasks())
    for point in importlib.metadata.entry_points(group=group):
        other = found.get(point.name)
        if point.name in builtin or (other and other.value != point.value):
            raise ConfigError(
                f"entry point {point.name!r} of {group} ({point.value}) has the name of "
                f"{other.value if other else 'a built-in one'}; rename or uninstall one of them"
            )
        found[point.name] = point
    return found
