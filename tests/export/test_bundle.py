"""Bundles of every kind of policy: equal to the policy, whole, and refused when they are not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from embodied.core.errors import CheckpointError, ConfigError, SpecMismatch
from embodied.core.files import sha256
from embodied.core.specs import DISCRETE, EE_DELTA_CHUNK, KEYFRAME
from embodied.export import bundle as writing
from embodied.export import parity
from embodied.export.exported import ExportedPolicy, load
from embodied.export.program import check_work
from embodied.serve.bundle import GOLDEN, MANIFEST, PARITY, read_arrays, read_bundle
from embodied.serve.runtime import Runtime, describe
from tests.export.small import MORE, POLICIES, READING, seen
from tests.policies.loaded import as_loaded

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


LONG = (pytest.mark.slow, pytest.mark.timeout(1200))


@pytest.mark.parametrize("name", [*POLICIES, *(pytest.param(n, marks=LONG) for n in MORE)])
def test_a_controller_gets_what_the_checkpoint_would_answer(bundles, name) -> None:
    """The golden sequence, replayed from the files alone."""
    if name.removeprefix("memory_vla-") in READING:
        pytest.importorskip("transformers")
    policy, path = bundles(name)
    stored = read_arrays(path / GOLDEN)
    runtime = Runtime.load(path)
    chunks = []
    for t in range(len(stored["time_s"])):
        obs = {key: stored[f"obs.{key}"][t] for key in policy.spec.observations}
        runtime.observe(obs, stored["time_s"][t], stored["reset"][t])
        chunks.append(runtime.act(stored["noise"][t]))
    assert np.isfinite(stored["chunk"]).all() and np.abs(stored["chunk"]).max() > 0
    assert np.abs(np.stack(chunks) - stored["chunk"]).max() <= parity.ACTION_TOLERANCE
    for state, array in runtime.state.items():
        off = np.subtract(array, stored[f"state.{state}"], dtype=np.float64)
        assert np.abs(off).max() <= parity.STATE_TOLERANCE
    report = json.loads((path / PARITY).read_text())
    assert report["ticks"] == len(stored["time_s"])
    rows = [row for batches in report["formats"].values() for row in batches.values()]
    assert rows and all(row["decisions_equal"] for row in rows)


def test_programs_of_torch_lie_beside_graphs_and_are_proved_alike(bundles) -> None:
    _, path = bundles("lstm")
    bundle = read_bundle(path)
    assert json.loads((path / PARITY).read_text())["formats"].keys() == {"onnx", "pt2"}
    for part, graph in bundle.graphs[1].items():
        assert graph.files == {"onnx": f"{part}-1.onnx", "pt2": f"{part}-1.pt2"}
        program = torch.export.load(path / graph.files["pt2"])  # written by this very process
        arguments, named = program.call_spec.in_spec, graph.inputs
        assert arguments.num_leaves == len(named)
        shapes = [tuple(node.meta["val"].shape) for node in program.graph.nodes
                  if node.name in program.graph_signature.user_inputs]  # fmt: skip
        assert shapes == [spec.shape for spec in named.values()]
        # Acting draws around what was said; all that sees and remembers is in the other file.
        assert (program.state_dict.keys() == {"policy.log_std"}) == (part == "act")
    assert "pt2" not in read_bundle(bundles("hcam")[1]).graphs[1]["act"].files


def test_the_runtime_never_reads_a_program_of_torch(bundles, tmp_path) -> None:
    """Whoever loads one unpickles what it holds."""
    copy = tmp_path / "copy"
    shutil.copytree(bundles("lstm")[1], copy)
    manifest = json.loads((copy / MANIFEST).read_text())
    for part in manifest["graphs"]["1"]:
        file = copy / f"{part}-1.pt2"
        file.write_bytes(b"not an archive")
        manifest["files"][file.name] = {"sha256": sha256(file), "bytes": 14}
    edit(copy, **manifest)
    Runtime.load(copy)
    for part, graph in manifest["graphs"]["1"].items():
        del graph["files"]["onnx"], manifest["files"][f"{part}-1.onnx"]
        (copy / f"{part}-1.onnx").unlink()
    edit(copy, **manifest)
    with pytest.raises(ConfigError, match="format=onnx or format=both"):
        Runtime.load(copy)


def test_rows_of_a_batch_are_strangers(bundles) -> None:
    """In a graph of that size, row by row in that of one, and alone: the same answers."""
    policy, path = bundles("hcam")
    inputs = parity.sequence(policy.spec, seen(policy), 3)
    bundle = read_bundle(path)
    together = parity.replay(Runtime(bundle, 3), inputs)
    del bundle.graphs[3]
    by_row = parity.replay(Runtime(bundle, 3), inputs)
    assert parity.compare(together, by_row, DISCRETE)["action"] <= 1e-6
    del bundle.graphs[1]
    with pytest.raises(ConfigError, match="export again with batches"):
        Runtime(bundle, 2)


def test_the_sequence_overflows_memory_and_starts_anew(bundles) -> None:
    policy, _ = bundles("hcam")
    inputs = parity.sequence(policy.spec, seen(policy), 3)
    assert inputs.reset.sum(0).tolist() == [2, 2, 2]
    assert len({int(np.flatnonzero(inputs.reset[:, row])[1]) for row in range(3)}) == 3
    held = policy.config.memory_config["chunk"] * (policy.config.memory_config["capacity"] + 1)
    assert np.flatnonzero(inputs.reset[:, 0])[1] > held


def test_a_bundle_acts_under_the_policy_contract(bundles) -> None:
    policy, path = bundles("memory_vla")
    loaded = load(path)
    exported = loaded.policy
    assert isinstance(exported, ExportedPolicy) and loaded.meta.policy == "memory_vla"
    assert exported.parameter_count() == policy.parameter_count() > 0
    inputs = parity.sequence(policy.spec, seen(policy), 2)
    found = parity.golden(exported, inputs)
    expected = parity.golden(policy, inputs)
    assert parity.compare(expected, found, EE_DELTA_CHUNK)["decisions_equal"]
    with pytest.raises(ConfigError, match="exported with"):
        exported.initial_state(1, capacity=4)
    with pytest.raises(ConfigError, match="bundles run on the CPU"):
        load(path, "cuda")


def test_memory_is_saved_and_goes_on(bundles, tmp_path) -> None:
    policy, path = bundles("memory_vla")
    inputs = parity.sequence(policy.spec, seen(policy), 1)
    whole, cut = Runtime.load(path), Runtime.load(path)
    for t in range(12):
        for runtime in (whole, cut):
            obs, time_s, reset, noise = inputs.tick(t)
            runtime.observe(obs, time_s, reset)
        if t == 6:
            cut.save(tmp_path / "memory.npz")
            cut = Runtime.load(path)
            cut.restore(tmp_path / "memory.npz")
    assert np.array_equal(whole.act(noise), cut.act(noise))
    with pytest.raises(CheckpointError, match="memory of another bundle"):
        Runtime.load(bundles("hcam")[1]).restore(tmp_path / "memory.npz")
    with pytest.raises(CheckpointError, match=r"memory of 2 row\(s\)"):
        Runtime.load(path, batch=2).restore(tmp_path / "memory.npz")
    (tmp_path / "memory.npz").write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError, match="holds no plain arrays"):
        cut.restore(tmp_path / "memory.npz")


def test_observations_that_do_not_fit_are_refused(bundles) -> None:
    policy, path = bundles("hcam")
    runtime = Runtime.load(path)
    obs, zero, reset = seen(policy)[0], np.zeros(1, np.float32), np.ones(1, bool)
    with pytest.raises(SpecMismatch, match=r"act\(\) before observe"):
        runtime.act(np.zeros((1, 5), np.float32))
    lacking = {k: v for k, v in obs.items() if k != "cue_code"}
    with pytest.raises(SpecMismatch, match="'cue_code' is missing"):
        runtime.observe(lacking, zero, reset)
    wrong = {**obs, "agent_image_u8": np.zeros((1, 12, 12, 3), np.float32)}
    with pytest.raises(SpecMismatch, match=r"expected uint8\[1, 12, 12, 3\]"):
        runtime.observe(wrong, zero, reset)
    with pytest.raises(SpecMismatch, match=r"time_s: expected float32\[1\], got float32\[2\]"):
        runtime.observe(obs, np.zeros(2, np.float32), reset)
    runtime.observe(obs, zero, reset)
    with pytest.raises(SpecMismatch, match="noise: expected"):
        runtime.act(np.zeros((1, 4), np.float32))


def test_the_contract_is_told_in_a_few_lines(bundles) -> None:
    text = describe(read_bundle(bundles("hcam")[1]))
    assert "hcam for remember_color" in text and "batches of 1, 3" in text


def test_serving_needs_no_torch(bundles) -> None:
    path = bundles("hcam")[1]
    code = (
        "import sys; from embodied.serve import Runtime; "
        f"Runtime.load({str(path)!r}); "
        "print(sorted({'torch', 'onnx', 'gymnasium', 'hydra', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- what is refused ------------------------------------------------------------------------


@pytest.fixture
def copy(bundles, tmp_path):
    shutil.copytree(bundles("hcam")[1], tmp_path / "copy")
    return tmp_path / "copy"


def edit(path, **changes) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def test_one_byte_changed_in_any_file_is_found(copy) -> None:
    for file in sorted(copy.iterdir()):
        if file.name == MANIFEST:
            continue
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        whole = file.read_bytes()
        file.write_bytes(bytes(content))
        with pytest.raises(CheckpointError, match=f"{file.name} is not the file"):
            read_bundle(copy)
        file.write_bytes(whole)
    read_bundle(copy)


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/hostname", "a/../../b", "a\\b", "a b"])
def test_paths_that_leave_the_bundle_are_refused(copy, name) -> None:
    edit(copy, files={name: {"sha256": "0", "bytes": 0}})
    with pytest.raises(CheckpointError, match="not to be trusted"):
        read_bundle(copy)


def test_links_missing_and_additional_files_are_refused(copy, tmp_path) -> None:
    graph = copy / "act-1.onnx"
    graph.rename(tmp_path / "elsewhere.onnx")
    with pytest.raises(CheckpointError, match=r"act-1.onnx is missing"):
        read_bundle(copy)
    graph.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(CheckpointError, match="is a link"):
        read_bundle(copy)
    graph.unlink()
    (tmp_path / "elsewhere.onnx").rename(graph)
    (tmp_path / "linked").symlink_to(copy)
    read_bundle(tmp_path / "linked")  # how a bundle is reached is nobody's business
    (copy / "run.py").write_text("")
    with pytest.raises(CheckpointError, match=r"run.py, which its manifest does not name"):
        read_bundle(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema version 2, and this package reads 1"),
        ({"schema_version": None}, "schema version None"),
        ({"spec": {}}, "does not describe a policy"),
        ({"graphs": {"1": {"observe": {}}}}, "does not describe a policy"),
        ({"graphs": {"1": {}}}, "needs the graphs observe and act"),
        ({"act_steps": "many"}, "does not describe a policy"),
        ({"files": ["act-1.onnx"]}, "does not describe a policy"),
        ({"files": {"act-1.onnx": {}}}, "does not describe a policy"),
        ({"files": {"act-1.onnx": 7}}, "does not describe a policy"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(copy, changes, message) -> None:
    edit(copy, **changes)
    with pytest.raises(CheckpointError, match=message):
        read_bundle(copy)


def test_a_graph_outside_of_the_hashed_files_is_refused(copy) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["graphs"]["1"]["act"]["files"]["onnx"] = "../elsewhere.onnx"
    edit(copy, graphs=manifest["graphs"])
    with pytest.raises(CheckpointError, match=r"\.\./elsewhere.onnx of a graph has no hash"):
        read_bundle(copy)


def test_a_state_that_does_not_come_out_again_is_refused(copy) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    del manifest["graphs"]["1"]["observe"]["outputs"]["next.count"]
    edit(copy, graphs=manifest["graphs"])
    with pytest.raises(CheckpointError, match=r"outputs of observe lack next.count"):
        read_bundle(copy)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"a": 1}', pytest.param("[" * 100_000, id="deep")]
)
def test_files_that_are_no_manifest_are_refused(copy, text) -> None:
    (copy / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=MANIFEST):
        read_bundle(copy)


def test_a_place_without_a_bundle_says_how_to_make_one(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="embodied export RUN"):
        read_bundle(tmp_path)


def test_differences_stop_the_export(bundles, tmp_path, monkeypatch) -> None:
    policy, _ = bundles("hcam")
    replay = parity.replay

    def drifting(runtime, inputs):
        found = replay(runtime, inputs)
        return {**found, "chunk": found["chunk"] + 1e-3}

    monkeypatch.setattr(writing.parity, "replay", drifting)
    monkeypatch.setattr(writing, "_write_graphs", lambda *given: copied(bundles, given[2]))
    with pytest.raises(CheckpointError, match=r"actions differ by 1.0e-03"):
        writing.write_bundle(as_loaded(policy, "hcam"), seen(policy), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_eight_bits_are_smaller_and_told_apart(bundles, tmp_path, monkeypatch) -> None:
    import onnx

    from embodied.export.onnx import quantize

    policy, path = bundles("lstm")

    def quantized(*given):
        bundle = read_bundle(path)
        for graph in bundle.graphs[1].values():
            shutil.copy(bundle.path / graph.files["onnx"], given[2])
            quantize(given[2] / graph.files["onnx"])
            del graph.files["pt2"]
        return {1: bundle.graphs[1]}

    monkeypatch.setattr(writing, "_write_graphs", quantized)
    out = tmp_path / "small"
    writing.write_bundle(as_loaded(policy, "hcam"), seen(policy), out, int8=True)
    small = read_bundle(out)
    assert small.manifest["weights"] == "int8"
    assert read_bundle(path).manifest["weights"] == "float32"
    report = json.loads((out / PARITY).read_text())["formats"]["onnx"]["1"]
    assert 1e-6 < report["action"] < 1
    assert sorted(p.name for p in out.glob("*.onnx")) == ["act-1.onnx", "observe-1.onnx"]
    notes = {entry.key: entry.value for entry in onnx.load(out / "act-1.onnx").metadata_props}
    assert notes["act_steps"] == str(policy.act_steps)


def copied(bundles, directory):
    """The graphs of a bundle that is there, in place of writing them again."""
    bundle = read_bundle(bundles("hcam")[1])
    for graph in bundle.graphs[1].values():
        shutil.copy(bundle.path / graph.files["onnx"], directory)
    return {1: bundle.graphs[1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {**a, "chunk": a["chunk"] * np.nan}, "not finite"),
        (lambda a: {**a, "state.n": a["state.n"] + 1}, "decisions are others"),
        (lambda a: {**a, "state.x": a["state.x"] + 1e-4}, "memory by 1.0e-04"),
        (lambda a: {**a, "chunk": a["chunk"][:1]}, "actions differ by inf"),
    ],
)
def test_what_parity_looks_at(change, message) -> None:
    arrays = {
        "chunk": np.zeros((2, 1, 1, 3), np.float32),
        "state.x": np.zeros((1, 4), np.float32),
        "state.n": np.zeros(1, np.int64),
    }
    same = {"action": 0.0, "state": 0.0, "decisions_equal": True}
    assert parity.compare(arrays, arrays, EE_DELTA_CHUNK) == same
    with pytest.raises(CheckpointError, match=message):
        parity.compare(arrays, change(arrays), EE_DELTA_CHUNK)


@pytest.mark.parametrize("kind", [DISCRETE, KEYFRAME])
def test_another_choice_is_another_decision(kind) -> None:
    """Even where differences are told and not judged, as in 8 bits."""
    ours, other = ({"chunk": np.eye(3, dtype=np.float32)[[[[i]]]]} for i in (0, 1))
    assert not parity.compare(ours, other, kind, strict=False)["decisions_equal"]
    assert parity.compare(ours, other, EE_DELTA_CHUNK, strict=False)["decisions_equal"]


def test_work_that_is_no_tensor_is_refused(bundles) -> None:
    policy, _ = bundles("hcam")
    check_work(policy, {"a": torch.zeros(1)})
    with pytest.raises(ConfigError, match="HCAM hands cloud from observing"):
        check_work(policy, {"a": torch.zeros(1), "cloud": object()})


def test_places_that_are_taken_and_batches_out_of_range_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="already exists"):
        writing.export("nothing", tmp_path)
    for batches in ([], [0], [2, 2]):
        with pytest.raises(ConfigError, match="batches must be different sizes"):
            writing.export("nothing", tmp_path / "out", batches)
    with pytest.raises(ConfigError, match=r"unknown format 'onx'; did you mean 'onnx'"):
        writing.export("nothing", tmp_path / "out", format="onx")
    with pytest.raises(ConfigError, match="int8=true stores the weights of ONNX graphs"):
        writing.export("nothing", tmp_path / "out", int8=True, format="both")
