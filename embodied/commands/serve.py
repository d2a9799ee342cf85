"""``embodied serve``: a policy behind a websocket, one memory for each client."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from pathlib import Path

from embodied.commands.base import Command
from embodied.core.errors import ConfigError
from embodied.core.files import sha256
from embodied.serve.bundle import MANIFEST, read_bundle
from embodied.serve.client import TOKEN_VARIABLE
from embodied.serve.server import LOOPBACK, Server, ServerConfig, metadata_of


@dataclasses.dataclass
class Options(ServerConfig):
    """Keys of ``embodied serve``.

    Attributes:
      source: Bundle, run, checkpoint or claim. A bundle needs no torch.
      threads: CPU threads of the network.
      device: ``"cpu"``, or ``"cuda"`` for a checkpoint.
    """

    source: str = dataclasses.field(kw_only=True)
    threads: int = 1
    device: str = "cpu"


def run(options: Options) -> None:
    """Serves until interrupted."""
    token = options.token or os.environ.get(TOKEN_VARIABLE, "")
    if options.host != LOOPBACK and not token:
        raise ConfigError(
            f"host={options.host} lets other machines in, and nothing asks them for a token; set "
            f"{TOKEN_VARIABLE} in the environment, or keep host={LOOPBACK}"
        )
    fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(ServerConfig)}
    config = ServerConfig(**{**fields, "token": token})
    server = _server(options, config)

    def ready(port: int) -> None:
        print(f"serving {options.source} at ws://{config.host}:{port}", flush=True)
        if config.keep:
            print(f"keeping sessions in {config.keep}; {len(server.sessions)} go on", flush=True)
        print("health  /healthz, metrics /metrics; stop with Ctrl-C", flush=True)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.run(ready))


def _server(options: Options, config: ServerConfig) -> Server:
    path = Path(options.source)
    if (path / MANIFEST).exists():
        from embodied.serve.runtime import Runtime

        bundle = read_bundle(path)
        parameters = int(bundle.manifest.get("parameters", 0))
        return Server(
            lambda batch: Runtime(bundle, batch, options.threads),
            metadata_of(path, bundle.checkpoint, sha256(path / MANIFEST), parameters),
            config,
            sizes=[1, *bundle.graphs],
        )
    import torch

    from embodied.export.live import LiveEngine
    from embodied.train.checkpoint import MODEL_FILE, load

    torch.set_num_threads(options.threads)
    loaded = load(options.source, options.device)
    live = LiveEngine(loaded)
    told = metadata_of(
        path,
        dataclasses.asdict(loaded.meta),
        sha256(loaded.path / MODEL_FILE),
        loaded.policy.parameter_count(),
    )
    return Server(lambda batch: live, told, config)


COMMAND = Command(
    run,
    Options,
    positional=("source",),
    examples=(
        "serve bundles/memory_vla-remember_color-k3-rgb",
        "serve bundles/memory_vla-remember_color-k3-rgb keep=sessions sessions.idle_reset_s=60",
        "serve runs/remember_color-easy-rgb-perceptual_cognitive-s0 port=8001 sessions.clock=calls",
    ),
)
