"""Composes configuration from the YAML groups in ``configs/``: the only user of Hydra.

Hydra merges defaults and chosen groups; single values are set afterwards by
:mod:`embodied.config`, which knows the types. Nothing is ever instantiated from YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from embodied.config import Raw, load_yaml
from embodied.core.errors import ConfigError, EmbodiedError, unknown_name
from embodied.extras import named_extras


def config_root() -> Path:
    """Returns the directory of YAML groups: inside the installed package or of the clone.

    Raises:
      EmbodiedError: If neither is there, which means a broken install.
    """
    package = Path(__file__).resolve().parent.parent
    # A wheel holds a copy inside the package; an editable install reads the clone's own.
    for root in (package / "configs", package.parent / "configs"):
        if (root / "train.yaml").is_file():
            return root
    raise EmbodiedError(
        f"no configs beside {package}: the installation is incomplete; reinstall embodied-memory"
    )


def groups_of(config: str) -> dict[str, list[str]]:
    """Returns the groups a config composes: group -> option names, sorted."""
    defaults = load_yaml(config_root() / f"{config}.yaml").get("defaults", [])
    names = [name for entry in defaults if isinstance(entry, dict) for name in entry]
    return {name: options(name) for name in names}


def options(group: str) -> list[str]:
    """Returns the names of a group's options: its YAML files, and what is computed."""
    files = (path.stem for path in (config_root() / group).glob("*.yaml"))
    return sorted({*files, *COMPUTED.get(group, ())})


def compose(config: str, overrides: Mapping[str, Raw]) -> tuple[dict[str, Any], dict[str, Raw]]:
    """Composes a config with the groups among the overrides.

    Args:
      config: Name of the YAML file under ``configs/``, without suffix.
      overrides: All ``key=value`` of the command line.

    Returns:
      Plain nested data, and the overrides that name no group.

    Raises:
      ConfigError: For an option that a group doesn't have; names the nearest one.
    """
    groups = groups_of(config)
    chosen, names, values, filled = {}, {}, {}, {}
    for key, value in overrides.items():
        if key not in groups:
            values[key] = value
        elif value in COMPUTED.get(key, ()):
            filled = COMPUTED[key][str(value)]()
        elif value in groups[key]:
            chosen[key] = str(value)
        elif value in _installed(key):
            # No YAML of its own: the dataclass's defaults.
            names[key] = str(value)
        else:
            raise unknown_name(key, value, {*groups[key], *_installed(key)})
    if "suite" in overrides and "task" in values:
        raise ConfigError("suite= names the tasks, and so does task=; give one of them")
    with named_extras():
        from hydra import compose as hydra_compose
        from hydra import initialize_config_dir
        from hydra.errors import HydraException
        from omegaconf import OmegaConf

    words = [f"{group}={option}" for group, option in chosen.items()]
    try:
        with initialize_config_dir(config_dir=str(config_root()), version_base="1.3"):
            composed = hydra_compose(config_name=config, overrides=words)
    except HydraException as error:
        raise ConfigError(f"configs/{config}.yaml: {' '.join(str(error).split())}") from error
    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    data: dict[str, Any] = {**{str(key): value for key, value in plain.items()}, **filled}
    for key, name in names.items():
        data[key] = {"name": name, "config": {}}
    return data, values


def _every_task() -> dict[str, Any]:
    from embodied import registry

    return {"task": registry.suite_tasks()}


COMPUTED: dict[str, dict[str, Callable[[], dict[str, Any]]]] = {"suite": {"all": _every_task}}
"""Group -> option -> the keys that it fills, for what no file could keep up with."""


def _installed(group: str) -> list[str]:
    """Returns names that need no YAML file, since a closed table or an entry point has them."""
    from embodied import registry

    tables = {"policy": registry.policy_names, "memory": registry.memory_names}
    return tables[group]() if group in tables else []
