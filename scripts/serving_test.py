"""Each client gets what it would get alone: ``python scripts/serving_test.py SOURCE [--clients 16]
[--seconds 300] [--malformed 1000]``.

Serves a bundle, a run or a claim in a process of its own. Every client first replays recorded
observations alone; then all replay theirs at once, cut off and begun anew at times of their own,
and each answer is compared with the one it got alone, to 1e-5. Meanwhile further connections send
malformed messages of every kind, each of which must get a reason. The server must go on, and
neither its memory nor its open files may grow. Writes ``serving.json`` and ``serving.md``; exit
code 1 if any of it fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from robustness.clients import TOLERANCE, Arrays, Visitor, ask_alone, recordings
from robustness.malformed import Intruder
from robustness.serving import ServerProcess, Watch

from embodied import __version__
from embodied.core.errors import EmbodiedError
from embodied.core.files import write_atomic, write_json
from embodied.evaluate import provenance
from embodied.serve.bundle import GOLDEN, MANIFEST, OBS, read_arrays
from embodied.serve.client import Client
from embodied.serve.server import ServerConfig

TOKEN = "serving-test"
EPISODES, TICKS = 2, 24
"""Recorded episodes of each client, and their length."""
INTRUDERS = 2
GROWTH_BYTES = 16 * 2**20
"""Most that resident memory may grow from the second to the last quarter of the time."""


def observations(source: str) -> list[Arrays]:
    """Returns observations that a policy met, in order, without a batch axis."""
    if (Path(source) / MANIFEST).exists():
        golden = read_arrays(Path(source) / GOLDEN)
        keys = [key for key in golden if key.startswith(OBS)]
        return [
            {key.removeprefix(OBS): golden[key][tick, 0] for key in keys}
            for tick in range(len(golden[keys[0]]))
        ]
    from embodied.export.parity import record
    from embodied.train.checkpoint import load

    return [{key: value[0] for key, value in tick.items()} for tick in record(load(source))]


def measure(server: ServerProcess, source: str, options: argparse.Namespace) -> dict[str, Any]:
    """Runs clients and intruders against a server; returns what they met."""
    with Client(server.uri, TOKEN) as client:
        period_s = float(client.metadata["observe_period_s"])
    seen = observations(source)
    own = [
        recordings(seen, period_s, EPISODES, TICKS, options.seed + number)
        for number in range(options.clients)
    ]
    for number, episodes in enumerate(own):
        ask_alone(server.uri, TOKEN, episodes)
        print(f"client {number} asked {EPISODES * TICKS} times alone", flush=True)
    watch = Watch(server.process.pid)
    time.sleep(0.5)  # the last connection's end
    watch.look()
    visitors = [
        Visitor(server.uri, TOKEN, episodes, options.seconds, options.seed + number)
        for number, episodes in enumerate(own)
    ]
    share = [len(part) for part in np.array_split(range(options.malformed), INTRUDERS)]
    intruders = [
        Intruder(server.uri, TOKEN, seen[0], ServerConfig().max_bytes, count, options.seconds, n)
        for n, count in enumerate(share)
    ]
    print(f"{len(visitors)} clients at once for {options.seconds:g} s", flush=True)
    began = time.monotonic()
    for thread in (watch, *visitors, *intruders):
        thread.start()
    for thread in (*visitors, *intruders):
        thread.join()
    wall_s = time.monotonic() - began
    watch.stop()
    time.sleep(0.5)
    alive = server.process.poll() is None
    if alive:
        watch.look()
    return {
        "wall_s": round(wall_s, 1),
        "clients": traffic(visitors, wall_s),
        "malformed": malformed(intruders),
        "server": {"alive": alive, **resources(watch), "metrics": metrics(server) if alive else {}},
    }


def traffic(visitors: Sequence[Visitor], wall_s: float) -> dict[str, Any]:
    """Returns what all clients met."""
    begun = Counter[str]()
    for visitor in visitors:
        begun.update(visitor.episodes)
    latencies = np.concatenate([v.latencies_ms for v in visitors])
    compared, wrong = (sum(getattr(v, name) for v in visitors) for name in ("compared", "wrong"))
    failures = {v.name: v.failure for v in visitors if v.failure}
    return {
        "ok": not wrong and not failures and all(v.compared for v in visitors),
        "clients": len(visitors),
        "episodes_begun_by": dict(begun),
        "answers_compared": compared,
        "answers_wrong": wrong,
        "largest_difference": max(v.largest for v in visitors),
        "failures": failures,
        "answers_per_s": round(len(latencies) / wall_s, 1),
        "latency_ms_p50": round(float(np.percentile(latencies, 50)), 2),
        "latency_ms_p99": round(float(np.percentile(latencies, 99)), 2),
    }


def malformed(intruders: Sequence[Intruder]) -> dict[str, Any]:
    """Returns what became of the malformed messages."""
    kinds = {}
    for kind in intruders[0].tallies:
        tallies = [intruder.tallies[kind] for intruder in intruders]
        kinds[kind] = {
            "sent": sum(tally.sent for tally in tallies),
            "answered": sum(tally.answered for tally in tallies),
            "reason": max(tally.reason for tally in tallies),
        }
    sent, answered = (sum(kind[key] for kind in kinds.values()) for key in ("sent", "answered"))
    return {"ok": sent == answered, "sent": sent, "answered": answered, "kinds": kinds}


def resources(watch: Watch) -> dict[str, Any]:
    """Returns how memory and open files went; the first look was before, the last is after."""
    during = np.array(watch.resident[1:-1] or watch.resident)
    quarter = max(1, len(during) // 4)
    early = during[quarter : 2 * quarter] if len(during) > quarter else during
    growth = int(np.median(during[-quarter:]) - np.median(early))
    files = watch.handles
    return {
        "ok": growth <= GROWTH_BYTES and files[-1] <= files[0],
        "resident_bytes_before": watch.resident[0],
        "resident_bytes_after": watch.resident[-1],
        "resident_bytes_most": max(watch.resident),
        "growth_bytes": growth,
        "resident_mib": [round(size / 2**20) for size in watch.resident],
        "open_files_before": files[0],
        "open_files_most": max(files),
        "open_files_after": files[-1],
    }


def metrics(server: ServerProcess) -> dict[str, Any]:
    """Returns the server's own count."""
    request = urllib.request.Request(
        server.uri.replace("ws://", "http://") + "/metrics",
        headers={"Authorization": f"Api-Key {TOKEN}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.loads(answer.read()))


def markdown(result: dict[str, Any]) -> str:
    """Returns ``serving.md``."""
    clients, bad, server = result["clients"], result["malformed"], result["server"]
    begun = ", ".join(f"{count} by {way}" for way, count in clients["episodes_begun_by"].items())
    mib = {key: round(server[f"resident_bytes_{key}"] / 2**20) for key in ("before", "after")}
    lines = [
        "# Many clients of one server",
        "",
        f"{result['policy']}, {clients['clients']} clients for {result['wall_s']} s. "
        f"{result['machine']}; {result['created_utc']}; commit {result['commit']}. Command: "
        f"`{result['command']}`. {'Passed' if result['ok'] else 'FAILED'}.",
        "",
        f"- {clients['answers_compared']} answers compared with what the client got alone: "
        f"{clients['answers_wrong']} differ by more than {TOLERANCE:g}, the largest difference is "
        f"{clients['largest_difference']:.1e}. Episodes begun: {begun}.",
        f"- {clients['answers_per_s']} answers/s; {clients['latency_ms_p50']} ms (median), "
        f"{clients['latency_ms_p99']} ms (99 %), clients and server on the same machine.",
        f"- Resident memory {mib['before']} MiB before, {mib['after']} after; from the second to "
        f"the last quarter of the time it grew by {server['growth_bytes'] / 2**20:.1f} MiB. Open "
        f"files {server['open_files_before']} before, {server['open_files_after']} after.",
        f"- {bad['sent']} malformed messages, {bad['answered']} with a reason:",
        "",
        "| kind | sent | with a reason | for example |",
        "|---|---|---|---|",
    ]
    for kind, row in bad["kinds"].items():
        reason = row["reason"].replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {kind} | {row['sent']} | {row['answered']} | {reason} |")
    lines += [f"- {name} ended early: {why}" for name, why in clients["failures"].items()]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("scripts/serving_test.py", description=__doc__.split("\n")[0])
    parser.add_argument("source", help="bundle, run or claim")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--malformed", type=int, default=1000, help="messages; 0 for none")
    parser.add_argument("--seed", type=int, default=0, help="draws episodes and messages")
    parser.add_argument("--out", type=Path, default=Path("results/robustness"))
    options = parser.parse_args(argv)
    if options.clients < 1 or options.seconds <= 0 or options.malformed < 0:
        parser.error("expected clients >= 1, seconds > 0 and malformed >= 0")
    with tempfile.TemporaryDirectory(prefix="serving-test-") as folder:
        try:
            server = ServerProcess(Path(folder) / "server.log", options.source, token=TOKEN)
            try:
                measured = measure(server, options.source, options)
            finally:
                server.kill()
        except EmbodiedError as error:
            print(f"serving_test: {error}", file=sys.stderr)
            return error.exit_code
    shown = provenance.shown(Path(options.source))
    result = {
        "format_version": 1,
        "ok": measured["server"]["alive"]
        and all(measured[part]["ok"] for part in ("clients", "malformed", "server")),
        "created_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "package_version": __version__,
        "commit": provenance.commit(),
        "machine": provenance.cpu_model(),
        "command": f"scripts/serving_test.py {shown} --clients {options.clients} --seconds "
        f"{options.seconds:g} --malformed {options.malformed} --seed {options.seed}",
        "policy": shown,
        "tolerance": TOLERANCE,
        **measured,
    }
    write_json(options.out / "serving.json", result)
    write_atomic(options.out / "serving.md", markdown(result))
    print(f"{'passed' if result['ok'] else 'FAILED'}: see {options.out / 'serving.md'}")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
