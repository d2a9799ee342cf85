"""``embodied export``: from a checkpoint to a bundle that runs without torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from embodied.commands.base import Command, command_line, finish
from embodied.core.errors import ConfigError, unknown_name
from embodied.evaluate.executors.config import ExecutorConfig
from embodied.serve.bundle import FORMATS, ONNX


@dataclasses.dataclass
class Options:
    """Keys of ``embodied export``.

    Attributes:
      source: Run directory, checkpoint directory or claim.
      out: Bundle directory to make; empty for ``bundles/<name of the source>``.
      batches: Batch sizes to write graphs for. With 1 among them the runtime serves any batch,
        row by row where it has no graph of that size.
      format: ``onnx``, graphs for our runtime and any other; ``pt2``, programs of torch.export for
        controllers that embed torch; or ``both``.
      int8: Stores weights in 8 bits: smaller, and another policy. How far it is off is told; what
        it is worth, `embodied evaluate` tells.
      executor: How answers become control actions, for the controller.
    """

    source: str
    out: str = ""
    batches: list[int] = dataclasses.field(default_factory=lambda: [1])
    format: str = "onnx"
    int8: bool = False
    executor: ExecutorConfig = dataclasses.field(default_factory=ExecutorConfig)

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise ConfigError(f"batches must be sizes >= 1, got {self.batches}")
        if self.format not in FORMATS:
            raise unknown_name("format", self.format, FORMATS)


def run(options: Options) -> None:
    """Exports, proves that the bundle does what the checkpoint does, and says what it is."""
    from embodied.core.files import read_json
    from embodied.export.bundle import export
    from embodied.serve.bundle import PARITY, read_bundle
    from embodied.serve.runtime import describe

    out = Path(options.out or default_out(options.source))
    export(options.source, out, options.batches, options.executor, options.int8, options.format)
    print(describe(read_bundle(out)))
    report = read_json(out / PARITY)
    rows = [(name, b, row) for name, rows in report["formats"].items() for b, row in rows.items()]
    for name, batch, row in rows:
        print(
            f"parity  {report['ticks']} ticks, {name}, batch {batch}: actions within "
            f"{row['action']:.1e}, memory within {row['state']:.1e}, "
            f"{'all' if row['decisions_equal'] else 'not all'} decisions equal"
        )
    if ONNX in report["formats"]:
        finish(out, command_line("embodied", "evaluate", out))
    else:  # nothing here runs a .pt2 file; what can be done with one is to compare its hashes
        check = f'import embodied.serve; embodied.serve.read_bundle("{out}")'
        finish(out, command_line("python", "-c", check))


def default_out(source: str) -> str:
    """Returns ``bundles/<name>``: of a run its directory's name, of a checkpoint in it too."""
    path = Path(source)
    if path.parent.name == "checkpoints":
        path = path.parent.parent
    elif path.name == "checkpoint":
        path = path.parent
    return f"bundles/{path.name}"


COMMAND = Command(
    run,
    Options,
    positional=("source",),
    examples=(
        "export memory_vla-remember_color-k3-rgb",
        "export runs/remember_color-easy-rgb-perceptual_cognitive-s0 batches=[1,16]",
        "export memory_vla-remember_color-k3-rgb format=both out=bundles/with_torch",
        "export memory_vla-remember_color-k3-rgb int8=true out=bundles/small",
    ),
)
