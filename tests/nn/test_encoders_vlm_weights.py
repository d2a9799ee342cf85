"""Where weights of vision-language encoders come from, and what of them is saved."""

import copy
import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from embodied.core.errors import CheckpointError, ConfigError, MissingExtra
from embodied.nn.encoders.pretrained import ADAPTER
from tests.nn.tiny_vlms import MODELS, batch, build, write_tokenizer

pytest.importorskip("transformers")
pytest.importorskip("peft")


@dataclasses.dataclass
class Made:
    folder: Path
    tensors: dict


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of tiny models, as repositories of the hub are: with a head, in safetensors."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    made = {}
    for seed, kind in enumerate(("smolvlm", "qwen2_5_vl")):
        folder = tmp_path_factory.mktemp(kind)
        torch.manual_seed(10 + seed)
        config = AutoConfig.for_model(kind, **copy.deepcopy(MODELS[kind]))
        whole = AutoModelForImageTextToText.from_config(config)
        whole.save_pretrained(folder)
        write_tokenizer(folder)
        made[kind] = Made(folder, whole.model.state_dict())
    return made


@pytest.mark.parametrize("kind", ["smolvlm", "qwen2_5_vl"])
def test_frozen_weights_of_a_folder_stay_out_of_checkpoints(kind, folders):
    folder, stored = folders[kind].folder, folders[kind].tensors
    encoder = build(kind, weights=str(folder), learn="frozen")
    for name, parameter in encoder.base.model.named_parameters():
        assert torch.equal(parameter, stored[name])
    holder = nn.ModuleDict({"trunk": encoder, "head": nn.Linear(2, 2)})
    assert set(holder.state_dict()) == {"head.weight", "head.bias", "trunk.base.source"}
    again = build(kind, seed=7, weights=str(folder), learn="frozen")
    nn.ModuleDict({"trunk": again, "head": nn.Linear(2, 2)}).load_state_dict(holder.state_dict())
    outputs = encoder.train()(*batch())
    assert not any(module.training for module in encoder.base.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(x.requires_grad for x in outputs)
    assert torch.equal(again(*batch())[1], outputs[1])
    with pytest.raises(RuntimeError, match="Missing key"):
        holder.load_state_dict({"head.weight": torch.zeros(2, 2)})
    other = holder.state_dict() | {"trunk.base.source": torch.zeros(32, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match=f"sha256 {'0' * 64}.*sha256 {encoder.weights_sha}"):
        holder.load_state_dict(other)


def test_adapters_of_a_folder_are_all_that_is_saved(folders):
    def make(seed, learn):
        encoder = build("smolvlm", seed, weights=str(folders["smolvlm"].folder), learn=learn)
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
        return encoder.eval()

    encoder, fresh = make(0, "lora"), make(1, "lora")
    state = encoder.state_dict()
    assert state.pop("base.source").numel() == 32
    assert state and all(ADAPTER in name for name in state)
    state = encoder.state_dict()
    assert not torch.equal(fresh(*batch())[1], encoder(*batch())[1])
    fresh.load_state_dict(state)
    assert torch.equal(fresh(*batch())[1], encoder(*batch())[1])
    full = make(0, "full")
    assert full.state_dict().keys() == dict(full.named_parameters()).keys()


def test_fingerprint_tells_weights_apart(folders, tmp_path, monkeypatch):
    from embodied.nn.encoders import weights

    folder = folders["smolvlm"].folder
    encoder = build("smolvlm", weights=str(folder), learn="frozen")
    assert encoder.weights_sha == weights.fingerprint(folder) and len(encoder.weights_sha) == 64
    assert encoder.weights_sha != weights.fingerprint(folders["qwen2_5_vl"].folder)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert weights.fingerprint(tmp_path) == encoder.weights_sha
    monkeypatch.setattr(weights, "WHOLE_BYTES", 10_000)
    sampled = weights.fingerprint(folder)
    assert weights.fingerprint(tmp_path) == sampled != encoder.weights_sha
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor + 1 for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert weights.fingerprint(tmp_path) != sampled


def test_refused_folders(folders, tmp_path):
    with pytest.raises(CheckpointError, match=r"expected model_type paligemma .* found 'smolvlm'"):
        build("paligemma", weights=str(folders["smolvlm"].folder))
    missing = tmp_path / "nowhere"
    with pytest.raises(CheckpointError, match=r"no such folder.*hf download ID --revision SHA"):
        build("smolvlm", weights=str(missing))
    with pytest.raises(CheckpointError, match="holds no model"):
        build("smolvlm", weights=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "smolvlm"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="Pickled weights are never opened"):
        build("smolvlm", weights=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text('{"model_type": "smolvlm", "scale_factor": "x"}')
    with pytest.raises(CheckpointError, match=r"config\.json doesn't describe a smolvlm"):
        build("smolvlm", weights=str(tmp_path))
    with pytest.raises(ConfigError, match=r"encoder\.model is for random weights"):
        build("smolvlm", weights=str(folders["smolvlm"].folder), model={"scale_factor": 3})
    with pytest.raises(ConfigError, match=r"is a folder: leave encoder\.revision empty"):
        build("smolvlm", weights=str(folders["smolvlm"].folder), revision="0" * 40)


def test_damaged_folders_are_refused(folders, tmp_path):
    for path in folders["smolvlm"].folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    lacking = {name: value for name, value in tensors.items() if "connector" not in name}
    save_file(lacking, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors.*connector"):
        build("smolvlm", weights=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match="can't be loaded"):
        build("smolvlm", weights=str(tmp_path))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match="tokenizer can't be read"):
        build("smolvlm", weights=str(tmp_path))


def test_ids_of_the_hub(folders, monkeypatch):
    import huggingface_hub

    for revision in ("", "main", "0" * 39):
        with pytest.raises(ConfigError, match="40 hex digits of a commit"):
            build("smolvlm", weights="owner/name", revision=revision)
    with pytest.raises(ConfigError, match=r"encoder\.weights, which is empty"):
        build("smolvlm", revision="0" * 40)
    asked = []

    def fetch(name, **how):
        asked.append((name, how["revision"], how["allow_patterns"]))
        return str(folders["smolvlm"].folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    encoder = build("smolvlm", weights="owner/name", revision="ab" * 20, learn="frozen")
    assert set(encoder.state_dict()) == {"base.source"}
    assert asked[0][:2] == ("owner/name", "ab" * 20)
    assert not any(pattern.endswith(("bin", "py", "*")) for pattern in asked[0][2])

    def offline(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"no network.*hf download ID --revision SHA"):
        build("smolvlm", weights="owner/name", revision="ab" * 20)


@pytest.mark.parametrize("missing", ["transformers", "peft"])
def test_missing_packages_are_named(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtra, match=rf"'{missing}'.*\[vlm\]"):
        build("smolvlm", learn="lora")
