"""HCAM agents with several memories under the policy contract."""

from __future__ import annotations

import pytest

from tests.contracts.policy import PolicyCase, PolicyContract
from tests.policies.hcam.small import make


def case(name: str, **options: object) -> PolicyCase:
    # Without a temperature the best action is taken, whatever the noise.
    options = {"temperature": 1.0, **options}
    return PolicyCase(
        name,
        lambda: make(**options),
        imitates=False,
        reinforces=True,
        remembers=options.get("memory") != "none",
    )


CASES = [
    case("chunks"),
    case("continuous", discrete=False),
    case("read-rule", read_when="instruction_token"),
    case("reconstructs", reconstruct=0.1),
    case("none", memory="none"),
    case("lstm", memory="lstm"),
    case("gru", memory="gru"),
    case("transformer-xl", memory="transformer_xl", memory_config={"heads": 2}),
    case("gated", memory="gated_transformer_xl", memory_config={"heads": 2}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestHCAM(PolicyContract):
    pass
