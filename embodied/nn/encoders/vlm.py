"""What the encoders that are pretrained vision-language models share.

Shape letters: B rows, C cameras, P = B*C pictures, S side of the pictures, G tokens along a
side, N = G*G tokens a view, F width of a visual token, L text tokens, T = C*N + L, Z width of
the language model.
"""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError, unknown_name
from embodied.core.prompt import Prompt
from embodied.nn.encoders.base import Encoder, EncoderOptions
from embodied.nn.encoders.pretrained import Pretrained, add_adapters, checkpoint_activations
from embodied.nn.encoders.text import ByteTokenizer, Prompts, load_tokenizer
from embodied.nn.encoders.weights import (
    DTYPES,
    find_weights,
    fingerprint,
    how_to_fetch,
    load_config,
    load_model,
    random_config,
    random_model,
    read_model_type,
)


@dataclasses.dataclass
class VLMOptions(EncoderOptions):
    """Options of all encoders that are pretrained vision-language models.

    Attributes:
      weights: Folder of a model, or its ``owner/name`` on the hub; empty for random weights.
      revision: Commit (40 hex digits) of a model on the hub.
      model: Values of the model's configuration that differ from its defaults, nested as there,
        for random weights.
      lora_rank: Rank of the adapters under ``learn=lora``.
      lora_alpha: Adapters are scaled by ``lora_alpha / lora_rank``.
      lora_dropout: Dropout before the adapters.
      checkpointing: Compute each layer again in the backward pass, which saves memory.
      text_tokens: L, the longest instruction in tokens, with its question. Every row is padded
        to it.
      dtype: ``"float32"`` or ``"bfloat16"``, of the model's own weights; adapters are float32.
        Weights that learn whole are float32: in bfloat16 they would lose most updates.
    """

    weights: str = ""
    revision: str = ""
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    checkpointing: bool = False
    text_tokens: int = 48
    dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lora_rank", "text_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"encoder.{name} must be >= 1, got {getattr(self, name)}")
        if self.lora_alpha <= 0:
            raise ConfigError(f"encoder.lora_alpha must be > 0, got {self.lora_alpha}")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"encoder.lora_dropout must be in [0, 1), got {self.lora_dropout}")
        if self.dtype not in DTYPES:
            raise unknown_name("encoder.dtype", self.dtype, DTYPES)
        if self.dtype == "bfloat16" and self.learn == "full":
            raise ConfigError(
                "encoder.learn=full with encoder.dtype=bfloat16 would hardly learn: a weight of "
                "bfloat16 has 8 bits, and an update of less than about 1/500 of it is lost. Set "
                "encoder.dtype=float32 (precision=bf16 still computes in bfloat16), or "
                "encoder.learn=lora, whose adapters are float32"
            )
        if self.checkpointing and self.learn == "frozen":
            raise ConfigError(
                "encoder.checkpointing=true saves memory of a backward pass, and "
                "encoder.learn=frozen has none: leave it false"
            )
        if self.revision and not self.weights:
            raise ConfigError("encoder.revision is the commit of encoder.weights, which is empty")


@dataclasses.dataclass
class Seen:
    """What a vision encoder makes of P pictures.

    Attributes:
      visual: [P, N, F] for the policy.
      spoken: [P, N, Z] for the language model.
      layers: Each [P*N, Z], added to the visual places behind the first language layers.
    """

    visual: Tensor
    spoken: Tensor
    layers: list[Tensor] = dataclasses.field(default_factory=list)


class Normalize(nn.Module):
    """Subtracts the mean of each channel and divides by its deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps [P, 3, S, S] in 0..1 to what a model was trained with."""
        return (pictures - self.mean) / self.std


HALF = (0.5, 0.5, 0.5)


class VisionLanguage(Encoder):
    """A vision encoder, and a language model over its tokens of all views and a question.

    Each picture is encoded once: what the policy gets as visual tokens is what the language
    model reads. The language model's head is neither built nor run. The cognitive token is
    the last layer's state at the last token of the question, which has seen everything.

    Source: the layout of MemoryVLA (arXiv 2508.19236) section 3.1, with other models in it.

    Attributes:
      MODEL_TYPES: Of the folders that can be loaded; the first is what random weights are of.
      EXAMPLE: A repository of the hub that has such weights.
      ADAPTED: How the names of the layers end that ``learn=lora`` adds adapters to: all
        projections of attention.
      ENCLOSED: Whether the sequence begins before the visual tokens and has an end.
      CAUSAL: Whether a token attends to earlier ones alone.
      MEAN, STD: Of the channels of the pictures that the vision encoder was trained with.
      weights_sha: Of the files the weights came from; empty for random ones.
    """

    options_class: ClassVar[type[EncoderOptions]] = VLMOptions
    MODEL_TYPES: ClassVar[tuple[str, ...]]
    EXAMPLE: ClassVar[str]
    ADAPTED: ClassVar[tuple[str, ...]] = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj")
    ENCLOSED: ClassVar[bool] = False
    CAUSAL: ClassVar[bool] = True
    MEAN: ClassVar[tuple[float, ...]] = HALF
    STD: ClassVar[tuple[float, ...]] = HALF

    def __init__(self, options: VLMOptions) -> None:
        super().__init__(options)
        if not options.weights and not options.model:
            raise ConfigError(
                "encoder.weights is empty, and so is encoder.model, the size of a model with "
                f"random weights: set one of them. {how_to_fetch(self.EXAMPLE)}"
            )
        folder: Path | None = None
        if options.weights:
            folder = find_weights(options.weights, options.revision, self.EXAMPLE)
        config = self._configure(folder)
        self.grid = self._grid(config)
        if folder is None and config.get_text_config().vocab_size < ByteTokenizer.SIZE:
            raise ConfigError(
                f"encoder.model: text_config.vocab_size must be >= {ByteTokenizer.SIZE} (bytes "
                f"are the vocabulary of random weights), got {config.get_text_config().vocab_size}"
            )
        model = self._build(config, folder)
        if options.learn == "lora":
            rank, alpha = options.lora_rank, options.lora_alpha
            add_adapters(model, self.ADAPTED, rank, alpha, options.lora_dropout)
        if options.checkpointing:
            checkpoint_activations(model)
        self.weights_sha = "" if folder is None else fingerprint(folder)
        self.base = Pretrained(model, options.learn, self.weights_sha)
        self.normalize = Normalize(self.MEAN, self.STD)
        tokenizer = ByteTokenizer() if folder is None else load_tokenizer(folder)
        self.prompts = Prompts(tokenizer, options.text_tokens, self.ENCLOSED)
        self.cognitive = self.width = self.language.config.hidden_size

    def _configure(self, folder: Path | None) -> Any:
        """Returns the model's configuration."""
        options = self.options
        if folder is None:
            return random_config(self.MODEL_TYPES[0], options.model)
        if options.model:
            raise ConfigError(
                "encoder.model is for random weights, and encoder.weights is set: the model is "
                "as its config.json says, so leave encoder.model empty"
            )
        read_model_type(folder, self.MODEL_TYPES, type(self).__name__)
        return load_config(folder)

    def _build(self, config: Any, folder: Path | None) -> Any:
        """Returns the model, without a head."""
        if folder is None:
            return random_model(config, self.options.dtype)
        return load_model(folder, config, self.options.dtype)

    @abc.abstractmethod
    def _grid(self, config: Any) -> int:
        """Returns G; refuses sizes of pictures that the model can't take."""

    @abc.abstractmethod
    def _see(self, pictures: Tensor) -> Seen:
        """Encodes pictures, [P, 3, S, S] in 0..1."""

    @property
    def language(self) -> Any:
        """The language model."""
        return self.base.model.language_model

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's own weights."""
        return self.language.get_input_embeddings().weight.dtype

    def forward(self, images_f32: Tensor, instruction_u8: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encodes one tick of each row; tokenises on the host, which waits for the device once.

        Args:
          images_f32: [B, C, 3, S, S] in 0..1.
          instruction_u8: [B, 160] zero-padded UTF-8 bytes.

        Returns:
          Visual tokens [B, C, N, F], rows of the grid first, and the cognitive token [B, Z],
          both in the dtype of the pictures.

        Raises:
          SpecMismatch: If an instruction is not UTF-8.
          ConfigError: If an instruction takes more than ``text_tokens`` tokens.
        """
        return self.encode(images_f32, *self.prompts(instruction_u8))

    def prompt(self) -> Prompt:
        return self.prompts.prompt()

    def encode(
        self, images_f32: Tensor, tokens_BL: Tensor, lengths_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        batch, cameras = images_f32.shape[:2]
        with self.base.gradients():
            seen = self._see(images_f32.flatten(0, 1))
            cognitive_BZ = self._read(seen, tokens_BL, lengths_B)
        visual_BCNF = seen.visual.unflatten(0, (batch, cameras))
        return visual_BCNF.to(images_f32.dtype), cognitive_BZ.to(images_f32.dtype)

    def _read(self, seen: Seen, tokens_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """Returns the language model's last state [B, Z] of each row."""
        batch, device = len(tokens_BL), tokens_BL.device
        visual_BVZ = seen.spoken.unflatten(0, (batch, -1)).flatten(1, 2)
        text_BLZ = self.language.get_input_embeddings()(tokens_BL)
        before = 1 if self.ENCLOSED else 0
        parts = [text_BLZ[:, :before], visual_BVZ.to(text_BLZ.dtype), text_BLZ[:, before:]]
        sequence_BTZ = torch.cat(parts, dim=1)
        views, total = seen.spoken.shape[0] // batch, sequence_BTZ.shape[1]
        place = torch.arange(total, device=device)
        attend = place < (visual_BVZ.shape[1] + lengths_B)[:, None]
        attend = attend[:, None, None]
        if self.CAUSAL:
            attend = attend & (place <= place[:, None])
        more: dict[str, Any] = {}
        if seen.layers:
            visual = (place >= before) & (place < before + visual_BVZ.shape[1])
            more["visual_pos_masks"] = visual.expand(batch, -1)
            more["deepstack_visual_embeds"] = seen.layers
        hidden_BTZ = self.language(
            inputs_embeds=sequence_BTZ,
            attention_mask=self._mask(attend, sequence_BTZ.dtype),
            position_ids=self._positions(batch, views, total, device),
            use_cache=False,
            **more,
        ).last_hidden_state
        last = visual_BVZ.shape[1] + lengths_B - 1
        return hidden_BTZ.gather(1, last[:, None, None].expand(-1, 1, hidden_BTZ.shape[-1]))[:, 0]

    def _mask(self, attend: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns `attend` [B, 1, 1 or T, T] as the mask [B, 1, T, T] of the language model."""
        # transformers passes masks of four axes on as they are. Made from two axes they would
        # be left out where all is attended to, and asking for that waits for the device.
        attend = attend.expand(-1, -1, attend.shape[-1], -1)
        if self.language.config._attn_implementation == "sdpa":
            return attend
        lowest = torch.finfo(dtype).min
        return torch.zeros(attend.shape, dtype=dtype, device=attend.device).masked_fill(
            ~attend, lowest
        )

    def _positions(self, batch: int, views: int, total: int, device: torch.device) -> Tensor:
        """Returns the position [B, T] of each token; padding is at the end, so it moves none."""
        return torch.arange(total, device=device).expand(batch, -1)
