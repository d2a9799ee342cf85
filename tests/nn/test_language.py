"""The instruction encoder: learning and acting say the same, and learning pays for words once."""

import torch

from embodied.nn.language import ByteInstructionEncoder


def test_learning_encodes_each_instruction_once_and_says_what_acting_says(monkeypatch):
    torch.manual_seed(0)
    encoder = ByteInstructionEncoder(12).double()
    words = torch.randint(0, 256, (3, 160), dtype=torch.uint8)
    rows = words[torch.tensor([2, 0, 0, 1, 2, 0])]
    with torch.no_grad():
        acted = encoder(rows)
    seen = []
    encode = encoder._encode
    monkeypatch.setattr(encoder, "_encode", lambda u8: seen.append(len(u8)) or encode(u8))
    learnt = encoder(rows)
    torch.testing.assert_close(learnt, acted)
    assert seen == [3]

    weight = torch.randn(6, 12, dtype=torch.float64)
    (learnt * weight).sum().backward()
    shared = encoder.project.weight.grad.clone()
    encoder.zero_grad()
    (encode(rows) * weight).sum().backward()
    torch.testing.assert_close(encoder.project.weight.grad, shared)
