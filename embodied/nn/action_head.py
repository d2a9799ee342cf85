"""Diffusion action heads: how an action chunk is drawn from noise and how that is learnt.

Both heads share one transformer. Sampling is unrolled over a fixed number of steps with
tables in buffers, so that it exports; the noise is an argument. Actions are normalised.

Shape letters: R rows (ticks that act), S noise samples a row, K actions, A action size.
"""

from __future__ import annotations

import abc
import dataclasses

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError, unknown_name
from embodied.nn.dit import ActionDiT, DiTConfig


@dataclasses.dataclass
class ActionHeadConfig:
    """The diffusion action expert.

    Attributes:
      kind: ``"flow"`` (flow matching) or ``"ddim"`` (noise prediction, DDIM sampling).
      dit: Size of the transformer.
      steps: Denoising steps when acting.
      samples: S, noise samples a tick when learning (the trunk and memory run once).
      temperature: Scale of the noise when acting; below 1 the hand trembles less. 1 draws
        from what was learnt, as published.
      guidance: Scale s of classifier-free guidance when acting: the field is that without
        the condition plus s times what the condition adds. 1 leaves it out (published: 1.5).
      condition_dropout: Share of noise samples that learn without the condition, which
        guidance needs (published: 0.1). Perceptual tokens are never dropped.
    """

    kind: str = "flow"
    dit: DiTConfig = dataclasses.field(default_factory=DiTConfig)
    steps: int = 10
    samples: int = 4
    temperature: float = 0.5
    guidance: float = 1.0
    condition_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in _HEADS:
            raise unknown_name("action head", self.kind, _HEADS)
        if not 1 <= self.steps <= DDIMHead.TRAIN_STEPS or self.samples < 1:
            raise ConfigError(
                f"expected steps within 1..{DDIMHead.TRAIN_STEPS} and samples >= 1, got "
                f"steps={self.steps}, samples={self.samples}"
            )
        if self.kind == "ddim" and DDIMHead.TRAIN_STEPS % self.steps:
            raise ConfigError(
                f"steps={self.steps} doesn't divide the {DDIMHead.TRAIN_STEPS} steps of ddim, so "
                "sampling would begin where pure noise is not what was learnt; choose 1, 2, 4, 5, "
                "10, 20, 25, 50 or 100"
            )
        if not 0 <= self.temperature <= 1:
            raise ConfigError(f"temperature must be within 0..1, got {self.temperature}")
        if self.guidance < 1 or not 0 <= self.condition_dropout < 1:
            raise ConfigError(
                "expected guidance >= 1 (1 is none) and 0 <= condition_dropout < 1, got "
                f"{self.guidance} and {self.condition_dropout}"
            )
        if self.guidance > 1 and not self.condition_dropout:
            raise ConfigError(
                f"guidance={self.guidance} compares with a field that is learnt without the "
                "condition; set condition_dropout too (published: 0.1), or guidance=1"
            )


class ActionHead(nn.Module, abc.ABC):
    """Base of the two heads.

    Args:
      config: Kind, size and step counts.
      action_size: A.
      horizon: K.
      condition: Width of the condition vector.
      perceptual: Width of the perceptual tokens.
    """

    def __init__(
        self,
        config: ActionHeadConfig,
        action_size: int,
        horizon: int,
        condition: int,
        perceptual: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.dit = ActionDiT(config.dit, action_size, horizon, condition, perceptual)
        self.null: nn.Parameter | None = None
        if config.condition_dropout:
            self.null = nn.Parameter(torch.randn(condition) * 0.02)

    def sample(self, noise_RKA: Tensor, condition_RC: Tensor, perceptual_RNP: Tensor) -> Tensor:
        """Draws normalised chunks [R, K, A] from Gaussian noise."""
        keys_values, chunk = self.dit.keys_values(perceptual_RNP), noise_RKA
        for step in range(self.config.steps):
            chunk = self.denoise(chunk, step, condition_RC, keys_values)
        return chunk

    @abc.abstractmethod
    def denoise(
        self,
        chunk_RKA: Tensor,
        step: int | Tensor,
        condition_RC: Tensor,
        keys_values: list[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Goes one step from noise to action.

        Args:
          chunk_RKA: The noise at step 0, then what the last step gave.
          step: 0 to ``steps`` - 1; an int64 scalar where one program serves all steps.
          condition_RC: Condition vectors.
          keys_values: Of the perceptual tokens, from the transformer's `keys_values`.
        """

    @abc.abstractmethod
    def _corrupt(
        self, chunk: Tensor, noise: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (noisy chunk, diffusion time for the transformer, target field)."""

    def loss(
        self,
        chunk_RKA: Tensor,
        weight_RK: Tensor,
        condition_RC: Tensor,
        perceptual_RNP: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean squared error of the predicted field.

        Args:
          chunk_RKA: Normalised target chunks.
          weight_RK: Weight of every action; 0 where the chunk is padded.
          condition_RC: Condition vectors.
          perceptual_RNP: Perceptual tokens.
          generator: Draws noise and diffusion times.
        """
        samples = self.config.samples
        chunk = chunk_RKA.repeat_interleave(samples, dim=0)
        noise = torch.randn(
            chunk.shape, generator=generator, device=chunk.device, dtype=chunk.dtype
        )
        noisy, time, target = self._corrupt(chunk, noise, generator)
        keys_values = self.dit.keys_values(perceptual_RNP)
        condition = condition_RC.repeat_interleave(samples, dim=0)
        if self.null is not None:
            draw = torch.rand(len(condition), 1, generator=generator, device=condition.device)
            dropped = draw < self.config.condition_dropout
            condition = torch.where(dropped, self.null.to(condition.dtype), condition)
        field = self.dit(noisy, time, condition, keys_values)
        error = (field - target).square().mean(dim=-1)
        weight = weight_RK.repeat_interleave(samples, dim=0).to(error.dtype)
        return (error * weight).sum() / weight.sum().clamp(min=1.0)

    def _field(
        self,
        chunk_RKA: Tensor,
        time: float | Tensor,
        condition_RC: Tensor,
        keys_values: list[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Returns the (guided) field [R, K, A] at one diffusion time of all rows."""
        rows, scale = chunk_RKA.shape[0], self.config.guidance
        # Filled on the device: a number copied there would be waited for.
        now = time if isinstance(time, Tensor) else chunk_RKA.new_full((), time)
        now = now.to(chunk_RKA.device, torch.float32)
        if scale == 1 or self.null is None:
            at = now.expand(rows)
            field: Tensor = self.dit(chunk_RKA, at, condition_RC, keys_values)
            return field
        # Both halves of a row lie side by side, so that they share its keys and values.
        null = self.null.to(condition_RC.dtype).expand_as(condition_RC)
        both = torch.stack([condition_RC, null], dim=1).flatten(0, 1)
        at = now.expand(2 * rows)
        fields = self.dit(chunk_RKA.repeat_interleave(2, dim=0), at, both, keys_values)
        with_condition, without = fields.unflatten(0, (rows, 2)).unbind(dim=1)
        return without + scale * (with_condition - without)


class FlowMatchingHead(ActionHead):
    """Straight paths from noise (time 0) to action (time 1); Euler integration.

    Source: Lipman et al. 2023 (arXiv 2210.02747), optimal-transport paths.
    """

    def _corrupt(
        self, chunk: Tensor, noise: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        time = torch.rand(chunk.shape[0], generator=generator, device=chunk.device)
        along = time[:, None, None].to(chunk.dtype)
        # The transformer's sinusoid is made for steps 0..100.
        return (1 - along) * noise + along * chunk, time * 100.0, chunk - noise

    def denoise(
        self,
        chunk_RKA: Tensor,
        step: int | Tensor,
        condition_RC: Tensor,
        keys_values: list[tuple[Tensor, Tensor]],
    ) -> Tensor:
        steps = self.config.steps
        field = self._field(chunk_RKA, 100.0 * step / steps, condition_RC, keys_values)
        return chunk_RKA + field / steps


class DDIMHead(ActionHead):
    """Noise prediction over 100 steps with squared-cosine betas; deterministic DDIM.

    Source: MemoryVLA section 3.4 and its released schedule: leading spacing, eta 0, last
    alpha-bar 1, so that the last step gives the clean chunk itself.
    """

    TRAIN_STEPS = 100

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        edges = torch.arange(self.TRAIN_STEPS + 1, dtype=torch.float64) / self.TRAIN_STEPS
        bar = torch.cos((edges + 0.008) / 1.008 * torch.pi / 2).square()
        betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
        alpha_bar = torch.cumprod(1 - betas, dim=0).float()
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)
        # Alpha-bar of the steps taken when acting, behind the 1 in which they end.
        taken = alpha_bar[:: self.TRAIN_STEPS // self.config.steps][: self.config.steps]
        self.register_buffer("kept", torch.cat([torch.ones(1), taken]), persistent=False)

    def _corrupt(
        self, chunk: Tensor, noise: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        step = torch.randint(
            self.TRAIN_STEPS, (chunk.shape[0],), generator=generator, device=chunk.device
        )
        bar = self.alpha_bar[step][:, None, None].to(chunk.dtype)
        return bar.sqrt() * chunk + (1 - bar).sqrt() * noise, step.float(), noise

    def denoise(
        self,
        chunk_RKA: Tensor,
        step: int | Tensor,
        condition_RC: Tensor,
        keys_values: list[tuple[Tensor, Tensor]],
    ) -> Tensor:
        stride = self.TRAIN_STEPS // self.config.steps
        left = self.config.steps - 1 - step
        noise = self._field(chunk_RKA, left * stride, condition_RC, keys_values)
        bar, before = self.kept[left + 1], self.kept[left]
        clean = (chunk_RKA - (1 - bar).sqrt() * noise) / bar.sqrt()
        # Nothing of the noise is left at the end: the last step gives the clean chunk itself.
        return before.sqrt() * clean + (1 - before).sqrt() * noise


_HEADS: dict[str, type[ActionHead]] = {"flow": FlowMatchingHead, "ddim": DDIMHead}


def build_action_head(
    config: ActionHeadConfig, action_size: int, horizon: int, condition: int, perceptual: int
) -> ActionHead:
    """Returns the head named by ``config.kind``."""
    return _HEADS[config.kind](config, action_size, horizon, condition, perceptual)
