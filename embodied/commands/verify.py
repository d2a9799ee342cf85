"""``embodied verify``: is a published claim what its checkpoint does?"""

from __future__ import annotations

import dataclasses

from embodied.commands.base import Command, command_line, finish
from embodied.core.errors import ConfigError


@dataclasses.dataclass
class Options:
    """Keys of ``embodied verify``.

    Attributes:
      claim: Id from ``embodied list claims``.
      episodes: Published episodes to replay, and as many of those with swapped memories.
      device: ``"cpu"`` or ``"cuda"``.
    """

    claim: str
    episodes: int = 5
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ConfigError(f"episodes must be >= 1, got {self.episodes}")


def run(options: Options) -> int:
    """Prints the verdict; exit code 1 if outcomes differ."""
    from embodied.claims.verify import verify_claim

    verification = verify_claim(options.claim, options.episodes, options.device)
    print(verification.text())
    finish(None, command_line("embodied", "play", f"policy={options.claim}"))
    return verification.exit_code


COMMAND = Command(
    run,
    Options,
    positional=("claim",),
    examples=(
        "verify memory_vla-remember_color-k3-rgb",
        "verify memory_vla-remember_color-k3-rgb episodes=50",
    ),
)
