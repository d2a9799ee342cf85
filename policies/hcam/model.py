"""What an HCAM agent sees with and answers with: encoder, decoder, heads.

Both ends are made from the observations' specs, so that one agent serves grids, tokens, codes,
pictures and a simulator's state. Shape letters: R rows (of a batch, or of a segment's ticks),
D width, A action size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied.core.entities import COLOR, ENTITIES, ENTITIES_MASK, POSITION
from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.specs import ArraySpec
from embodied.core.text import INSTRUCTION
from embodied.nn.language import ByteInstructionEncoder
from embodied.nn.position import FourierFeatures

TOKEN, IMAGE = "_token", "_image_u8"
"""Endings of observation keys: whole numbers below a vocabulary, and RGB pictures."""


def orthogonal(linear: nn.Linear, gain: float) -> nn.Linear:
    """Starts a layer orthogonally and without bias, as is usual for policy gradients."""
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


def vocabulary(key: str, spec: ArraySpec) -> int:
    """Returns how many values each element of a token observation may take.

    Raises:
      ConfigError: If its spec has no upper bound.
    """
    if spec.high is None:
        raise ConfigError(
            f"observation {key!r} holds tokens, so its spec must give the largest one as `high`"
        )
    return int(spec.high) + 1


class TokenEncoder(nn.Module):
    """Whole numbers [R, ...]: a vector for each value at each place, summed.

    Args:
      key: Observation key.
      spec: Its spec.
      width: D.
      shared_values: Adds a vector for each value, the same wherever it stands.
    """

    def __init__(self, key: str, spec: ArraySpec, width: int, shared_values: bool) -> None:
        super().__init__()
        self.key, self.places = key, math.prod(spec.shape)
        self.values = vocabulary(key, spec)
        self.table = nn.EmbeddingBag(self.places * self.values, width, mode="sum")
        nn.init.normal_(self.table.weight, std=1 / math.sqrt(self.places))
        self.shared: nn.EmbeddingBag | None = None
        if shared_values and self.places > 1:
            self.shared = nn.EmbeddingBag(self.values, width, mode="sum")
            nn.init.normal_(self.shared.weight, std=1 / math.sqrt(self.places))
        first = torch.arange(self.places) * self.values
        self.register_buffer("first", first, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns [R, D] for integers [R, ...] below the vocabulary.

        Beyond it a value is an error; without `shared_values` it may pass for another place's.
        """
        flat = tokens.reshape(len(tokens), self.places).long()
        vectors: Tensor = self.table(flat + self.first)
        if self.shared is not None:
            vectors = (vectors + self.shared(flat)) / math.sqrt(2.0)
        return vectors


class VectorEncoder(nn.Module):
    """Floating-point numbers [R, ...]: one linear map of all of them.

    Args:
      spec: The observation's spec.
      width: D.
    """

    def __init__(self, spec: ArraySpec, width: int) -> None:
        super().__init__()
        self.map = orthogonal(nn.Linear(max(1, math.prod(spec.shape)), width), 1.0)

    def forward(self, numbers: Tensor) -> Tensor:
        """Returns [R, D]."""
        flat = numbers.reshape(len(numbers), -1).to(self.map.weight.dtype)
        vectors: Tensor = self.map(flat)
        return vectors


class ImageEncoder(nn.Module):
    """RGB pictures uint8 [R, H, W, 3]: strided convolutions and a linear map.

    Args:
      spec: The observation's spec.
      width: D.
      channels: Of each convolution.
    """

    def __init__(self, spec: ArraySpec, width: int, channels: Sequence[int]) -> None:
        super().__init__()
        before, layers = 3, []
        for size in channels:
            layers += [nn.Conv2d(before, size, 3, stride=2, padding=1), nn.ReLU()]
            before = size
        self.see = nn.Sequential(*layers)
        with torch.no_grad():
            seen = self.see(torch.zeros(1, 3, *spec.shape[:2])).numel()
        self.map = orthogonal(nn.Linear(seen, width), math.sqrt(2.0))

    def forward(self, image_u8: Tensor) -> Tensor:
        """Returns [R, D]."""
        image = image_u8.permute(0, 3, 1, 2).to(self.map.weight.dtype) / 255.0
        vectors: Tensor = self.map(self.see(image).flatten(1))
        return vectors


class EntityEncoder(nn.Module):
    """A table of entities [R, N, F]: what each row says, and of that the largest and the mean.

    The same map reads every row, so that what is learnt of a thing holds wherever it stands in the
    table, and one thing is not lost among many. Places and colours differ by fractions of a metre
    or of full intensity, which is little beside a type's one; codes make that much of them.

    Args:
      spec: The table's spec.
      width: D.
    """

    NEAR_M, ALIKE = 0.1, 0.2
    """Places and colours that differ by less have similar codes."""
    CODE = 32

    def __init__(self, spec: ArraySpec, width: int) -> None:
        super().__init__()
        self.place = FourierFeatures(3, self.CODE, self.NEAR_M)
        self.color = FourierFeatures(3, self.CODE, self.ALIKE)
        self.row = nn.Sequential(
            orthogonal(nn.Linear(spec.shape[-1] + 2 * self.CODE, width), math.sqrt(2.0)),
            nn.ReLU(),
            orthogonal(nn.Linear(width, width), math.sqrt(2.0)),
            nn.ReLU(),
        )
        self.map = orthogonal(nn.Linear(2 * width, width), 1.0)

    def forward(self, entities: Tensor, mask: Tensor) -> Tensor:
        """Returns [R, D] for rows and whether there is an entity in each, bool [R, N]."""
        seen = [entities, self.place(entities[..., POSITION]), self.color(entities[..., COLOR])]
        dtype = self.map.weight.dtype
        rows = self.row(torch.cat([part.to(dtype) for part in seen], dim=-1)) * mask.unsqueeze(-1)
        count = mask.sum(1, keepdim=True).clamp(min=1)
        vectors: Tensor = self.map(torch.cat([rows.amax(1), rows.sum(1) / count], dim=-1))
        return vectors


class Encoder(nn.Module):
    """Observations of a tick to one vector: the sum of what each says, and two layers.

    Args:
      specs: Observation key -> spec.
      width: D.
      hidden: Size between the two layers.
      channels: Of the convolutions.
      shared_values: See `TokenEncoder`.

    Raises:
      ConfigError, SpecMismatch: If there is nothing to see, or a part of it is missing.
    """

    def __init__(
        self,
        specs: Mapping[str, ArraySpec],
        width: int,
        hidden: int,
        channels: Sequence[int],
        shared_values: bool,
    ) -> None:
        super().__init__()
        if ENTITIES in specs and ENTITIES_MASK not in specs:
            raise SpecMismatch(
                f"observation {ENTITIES!r} needs {ENTITIES_MASK!r} beside it; offered: "
                f"{', '.join(sorted(specs))}"
            )
        parts: dict[str, nn.Module] = {}
        for key, spec in specs.items():
            if key == INSTRUCTION:
                parts[key] = ByteInstructionEncoder(hidden)
            elif key == ENTITIES:
                parts[key] = EntityEncoder(spec, hidden)
            elif key == ENTITIES_MASK:
                continue
            elif key.endswith(TOKEN):
                parts[key] = TokenEncoder(key, spec, hidden, shared_values)
            elif key.endswith(IMAGE):
                parts[key] = ImageEncoder(spec, hidden, channels)
            else:
                parts[key] = VectorEncoder(spec, hidden)
        if not parts:
            raise ConfigError("an agent needs at least one observation, got none")
        self.parts = nn.ModuleDict(parts)
        self.norm = nn.LayerNorm(hidden)
        self.out = orthogonal(nn.Linear(hidden, width), 1.0)

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Returns [R, D] for key -> [R, ...]."""
        total = None
        for key, part in self.parts.items():
            seen = (obs[key], obs[ENTITIES_MASK]) if key == ENTITIES else (obs[key],)
            vector = part(*seen)
            total = vector if total is None else total + vector
        vectors: Tensor = self.out(F.relu(self.norm(total)))
        return vectors


class Decoder(nn.Module):
    """Tells the observations of a tick from a vector; the loss that shapes what is stored.

    Tokens by cross-entropy, pictures by the cross-entropy of intensities as probabilities,
    numbers by squared error; each a mean over elements. An instruction stays the same all along
    and is not told.

    Args:
      specs: Observation key -> spec.
      width: D.
      hidden: Size of the layer in between.

    Source: HCAM (arXiv 2105.14039), which reconstructs image and words; the losses as in public
    agents after it.
    """

    def __init__(self, specs: Mapping[str, ArraySpec], width: int, hidden: int) -> None:
        super().__init__()
        self.specs = {key: spec for key, spec in specs.items() if key != INSTRUCTION}
        self.body = nn.Sequential(orthogonal(nn.Linear(width, hidden), math.sqrt(2.0)), nn.ReLU())
        self.out = nn.ModuleDict(
            {key: nn.Linear(hidden, self._size(key, spec)) for key, spec in self.specs.items()}
        )

    @staticmethod
    def _size(key: str, spec: ArraySpec) -> int:
        elements = max(1, math.prod(spec.shape))
        return elements * vocabulary(key, spec) if key.endswith(TOKEN) else elements

    def forward(self, vector: Tensor, obs: Mapping[str, Tensor]) -> Tensor:
        """Returns [R], the sum over observations of their mean errors."""
        body = self.body(vector)
        total = vector.new_zeros(len(vector))
        for key, out in self.out.items():
            predicted, seen = out(body), obs[key]
            if key.endswith(TOKEN):
                values = vocabulary(key, self.specs[key])
                flat = seen.reshape(len(seen), -1).long()
                logits = predicted.view(len(predicted), -1, values)
                error = F.cross_entropy(logits.flatten(0, 1), flat.flatten(), reduction="none")
                error = error.view_as(flat)
            elif key.endswith(IMAGE):
                target = seen.reshape(len(seen), -1).to(predicted.dtype) / 255.0
                error = F.binary_cross_entropy_with_logits(predicted, target, reduction="none")
            else:
                error = (predicted - seen.reshape(len(seen), -1).to(predicted.dtype)).square()
            total = total + error.mean(dim=-1)
        return total


class Heads(nn.Module):
    """What is done and what it is worth, from the present and from what memory answered.

    Args:
      width: D of each of the two vectors.
      hidden: Size of the hidden layers.
      outputs: Numbers that say what is done.
    """

    def __init__(self, width: int, hidden: int, outputs: int) -> None:
        super().__init__()
        # A start near zero: all actions alike, and a value that promises nothing.
        self.policy, self.value = (self._head(width, hidden, n) for n in (outputs, 1))

    @staticmethod
    def _head(width: int, hidden: int, outputs: int) -> nn.Sequential:
        inner = orthogonal(nn.Linear(2 * width, hidden), math.sqrt(2.0))
        return nn.Sequential(inner, nn.ReLU(), orthogonal(nn.Linear(hidden, outputs), 0.01))

    def forward(self, present: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Returns [..., outputs] and [...] for two times [..., D]; float32 under autocast too."""
        both = torch.cat([present, memory], dim=-1)
        return self.policy(both).float(), self.value(both).squeeze(-1).float()


def check_read_when(key: str, specs: Mapping[str, ArraySpec]) -> None:
    """Refuses a read rule that names no observation.

    Raises:
      SpecMismatch: Naming those there are.
    """
    if key and key not in specs:
        raise SpecMismatch(
            f"policy.config.read_when={key!r} is no observation of this task; expected one of "
            f"{', '.join(sorted(specs))}, or nothing to read at every tick"
        )
