"""A bundle with a tokenizer: what its graphs get of an instruction, and what is refused."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest

from embodied.core.errors import CheckpointError, ConfigError, MissingExtra, SpecMismatch
from embodied.core.files import sha256
from embodied.core.prompt import PROMPT_LENGTH, PROMPT_TOKENS, PromptRule
from embodied.core.specs import ArraySpec
from embodied.core.text import INSTRUCTION, encode_instruction
from embodied.serve.bundle import INITIAL, MANIFEST, OBS, RESET, TIME, TOKENIZER, read_bundle
from embodied.serve.runtime import Runtime
from tests.serve.engines import SPEC

tokenizers = pytest.importorskip("tokenizers")

WORDS = ["<pad>", "<s>", "</s>", "do", ":", "put", "it", "back", "!", "<unk>"]
RULE = PromptRule("Do: {instruction}!", 8, True, False, before=(1,), after=(2,))


class Heard(Runtime):
    """Graphs that note what they get, and answer with it."""

    def _open(self, graph, threads):
        def run(feed):
            self.feeds.append(feed)
            count = len(feed[RESET])
            return {name: spec.zeros(count) for name, spec in made.items()}

        made = {name: ArraySpec(spec.shape[1:], spec.dtype) for name, spec in graph.outputs.items()}
        self.feeds = []
        return run


@pytest.fixture
def path(tmp_path):
    """A bundle whose policy reads tokens: everything but graphs that can run."""
    words = tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    # What a file of a model may ask for beside; the rule says how prompts are padded.
    tokenizer.enable_padding(length=50, pad_id=9)
    tokenizer.enable_truncation(3)
    (tmp_path / TOKENIZER).write_text(tokenizer.to_str())
    buffer = io.BytesIO()
    np.savez(buffer, **{name: spec.zeros(1) for name, spec in SPEC.state.items()})
    (tmp_path / INITIAL).write_bytes(buffer.getvalue())
    for part in ("observe", "act"):
        (tmp_path / f"{part}-1.onnx").write_bytes(part.encode())
    write(tmp_path)
    return tmp_path


def write(path, rule=None, files=(TOKENIZER, INITIAL, "observe-1.onnx", "act-1.onnx")):
    def rows(specs):
        return {name: {"shape": [1, *s.shape], "dtype": s.dtype} for name, s in specs.items()}

    def state(prefix):
        return {prefix + name: spec for name, spec in SPEC.state.items()}

    seen = {OBS + key: spec for key, spec in RULE.inputs(SPEC.observations).items()}
    clock = {TIME: ArraySpec((), "float32"), RESET: ArraySpec((), "bool")}
    number = ArraySpec((), "float32")
    graphs = {
        "observe": (seen | clock | state("state."), {"work.x": number} | state("next.")),
        "act": (dict.fromkeys(("work.x", "carried", "step"), number),
                dict.fromkeys(("carry", "chunk"), number)),
    }  # fmt: skip
    manifest = {
        "schema_version": 1,
        "spec": SPEC.to_json(),
        "graphs": {
            "1": {
                part: {"files": {"onnx": f"{part}-1.onnx"}, "inputs": rows(a), "outputs": rows(b)}
                for part, (a, b) in graphs.items()
            }
        },
        "act_steps": 1,
        "executor": {},
        "checkpoint": {},
        "prompt": RULE.to_json() if rule is None else rule,
        "files": {
            name: {"sha256": sha256(path / name), "bytes": (path / name).stat().st_size}
            for name in files
        },
    }
    (path / MANIFEST).write_text(json.dumps(manifest))


def said(*texts):
    rows = np.stack([encode_instruction(text) for text in texts])
    return {"pos_m": np.zeros((len(texts), 2), np.float32), INSTRUCTION: rows}


def tick(runtime, obs):
    count = len(obs[INSTRUCTION])
    runtime.observe(obs, np.zeros(count, np.float32), np.ones(count, bool))
    return runtime.feeds


@pytest.mark.parametrize("special", [False, True])
def test_graphs_get_tokens_in_place_of_the_instruction(path, special) -> None:
    before, after = ((), ()) if special else ((1,), (2,))
    rule = PromptRule("Do: {instruction}!", 8, True, special, before, after)
    write(path, rule.to_json())
    runtime = Heard.load(path, batch=2)
    first, second = tick(runtime, said("Put it BACK", "{instruction}"))
    assert OBS + INSTRUCTION not in first
    assert first[OBS + PROMPT_TOKENS].tolist() == [[1, 3, 4, 5, 6, 7, 8, 2]]
    assert first[OBS + PROMPT_LENGTH].tolist() == [8]
    assert first[OBS + PROMPT_TOKENS].dtype == first[OBS + PROMPT_LENGTH].dtype == np.int64
    # Braces, a word and the final mark are unknown together or alone; what is said is not a slot.
    assert second[OBS + PROMPT_TOKENS].tolist()[0][:4] == [1, 3, 4, 9]
    (empty, _) = tick(Heard.load(path, batch=2), said("", ""))
    assert empty[OBS + PROMPT_TOKENS].tolist() == [[1, 3, 4, 8, 2, 0, 0, 0]]
    assert empty[OBS + PROMPT_LENGTH].tolist() == [5]


def test_an_instruction_is_never_cut(path) -> None:
    runtime = Heard.load(path)
    with pytest.raises(ConfigError, match=r"'Put it back back' takes 9 tokens.*never cut"):
        tick(runtime, said("Put it back back"))
    bad = said("")
    bad[INSTRUCTION][0, 0] = 0xFF
    with pytest.raises(SpecMismatch, match="instruction_u8 is not UTF-8"):
        tick(runtime, bad)
    assert not runtime.feeds


def test_a_tokenizer_that_was_changed_is_refused(path) -> None:
    text = (path / TOKENIZER).read_text()
    (path / TOKENIZER).write_text(text.replace("back", "bacK"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not the file"):
        Heard.load(path)
    (path / TOKENIZER).write_text("{}")
    write(path)  # hashes that fit, as of somebody who wrote a bundle by hand
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is no tokenizer"):
        Heard.load(path)
    (path / TOKENIZER).unlink()
    write(path, files=(INITIAL, "observe-1.onnx", "act-1.onnx"))
    with pytest.raises(CheckpointError, match=r"asks for tokenizer\.json, which has no hash"):
        read_bundle(path)


@pytest.mark.parametrize(
    "change",
    [
        {"padding_side": "left"},
        {"padding_token": 1},
        {"template": "Do!"},
        {"length": 0},
        {"before": ["a"]},
        {"code": "x"},
    ],
)
def test_rules_that_do_not_fit_are_refused(path, change) -> None:
    write(path, RULE.to_json() | change)
    with pytest.raises(CheckpointError, match="does not describe a policy"):
        read_bundle(path)
    write(path, {"template": "{instruction}"})
    with pytest.raises(CheckpointError, match="does not describe a policy"):
        read_bundle(path)


def test_only_bundles_with_a_tokenizer_need_the_package(path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtra, match=r"'tokenizers'.*pip install 'embodied-memory\[serve\]'"):
        Heard.load(path)
    manifest = json.loads((path / MANIFEST).read_text())
    del manifest["prompt"]
    manifest["graphs"]["1"]["observe"]["inputs"][OBS + INSTRUCTION] = {
        "shape": [1, 160], "dtype": "uint8"
    }  # fmt: skip
    (path / MANIFEST).write_text(json.dumps(manifest))
    (feed,) = tick(Heard.load(path), said("Put it back"))
    assert feed[OBS + INSTRUCTION].shape == (1, 160)
