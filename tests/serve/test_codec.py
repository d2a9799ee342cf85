"""The wire format: openpi's bytes, and nothing that is more than numbers and text."""

from __future__ import annotations

import contextlib

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embodied.serve import codec
from embodied.serve.codec import MAX_DEPTH, MAX_ENTRIES, MAX_ITEMS, MessageError, pack, unpack

LIMIT = 1 << 20


def array(data=b"\0" * 8, dtype="<f4", shape=(2,)) -> dict:
    return {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}


def test_arrays_are_maps_with_byte_string_keys() -> None:
    """The bytes that an unmodified openpi client sends and reads."""
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    raw = msgpack.unpackb(pack({"observation/state": value, "prompt": "go"}))
    assert raw == {
        "observation/state": {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": "<f4",
            b"shape": [2, 3],
        },
        "prompt": "go",
    }
    assert msgpack.unpackb(pack(np.float32(0.5))) == {
        b"__npgeneric__": True,
        b"data": 0.5,
        b"dtype": "<f4",
    }


@given(
    st.dictionaries(
        st.text(max_size=8),
        arrays.arrays(
            st.sampled_from(["?", "u1", "<i8", "<f2", "<f4", "<f8", ">i4"]),
            arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
        ),
        max_size=3,
    )
)
def test_what_is_packed_comes_back(message) -> None:
    found = unpack(pack(message), LIMIT)
    assert found.keys() == message.keys()
    for key, value in message.items():
        assert found[key].dtype == value.dtype and found[key].shape == value.shape
        assert found[key].tobytes() == value.tobytes()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (array(dtype="O"), "refused"),
        (array(dtype="<c8"), "refused"),
        (array(dtype="V8"), "refused"),
        (array(dtype="<U2"), "refused"),
        (array(dtype="<M8[s]"), "refused"),
        (array(dtype="<f16", data=b"\0" * 32), "refused"),
        (array(dtype="f4,f4"), "refused"),
        (array(dtype="nothing"), "no dtype of numbers"),
        (array(dtype="x" * 100), "a short text such as"),
        (array(dtype=7), "a short text such as"),
        (array(shape=[3]), "has 12 bytes, and 8 came"),
        (array(shape=[-1]), "whole numbers >= 0"),
        (array(shape=[2.0]), "whole numbers >= 0"),
        (array(shape=[True, 2]), "whole numbers >= 0"),
        (array(shape=[1] * 9), "at most 8"),
        (array(shape=[b"long" * 99]), r"whole numbers >= 0, got 1: \['bytes'\]"),
        (array(shape="22"), "must be a list, got str"),
        (array(shape=[2**62, 2**62]), "bytes, and 8 came"),
        (array(data="text"), "data of an array must be bytes"),
        ({b"__ndarray__": True}, "a short text such as"),
        ({b"__npgeneric__": True, b"data": [1], b"dtype": "<f4"}, "a scalar must be a number"),
        ({"a": msgpack.ExtType(5, b"x")}, "no msgpack map"),
    ],
)
def test_messages_that_are_refused(message, reason) -> None:
    with pytest.raises(MessageError, match=reason):
        unpack(msgpack.packb(message), LIMIT)


def test_bytes_that_are_no_message_are_refused() -> None:
    whole = pack({"a": np.zeros(4)})
    for data in (b"", whole[:-1], whole + b"\0", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000):
        with pytest.raises(MessageError, match="no msgpack map"):
            unpack(data, LIMIT)
    with pytest.raises(MessageError, match="at most 10 are read"):
        unpack(whole, 10)
    with pytest.raises(MessageError, match="no msgpack map"):
        unpack(msgpack.packb({1: 2}), LIMIT)
    deep: object = 1
    for _ in range(MAX_DEPTH + 2):
        deep = [deep]
    with pytest.raises(MessageError, match="nested deeper"):
        unpack(msgpack.packb(deep), LIMIT)


def test_entries_are_counted_over_all_of_a_message(monkeypatch) -> None:
    """Else a megabyte of empty maps would take half a second and 70 MB."""
    head, most = b"\xdc" + MAX_ITEMS.to_bytes(2), MAX_ENTRIES // (MAX_ITEMS + 1)
    seen = []
    monkeypatch.setattr(codec, "_decoded", seen.append)
    for empty in (b"\x80", b"\x90", b"\x01"):
        row = head + empty * MAX_ITEMS
        with pytest.raises(MessageError, match="more than 16,384 entries in its maps and lists"):
            unpack(head + row * MAX_ITEMS, MAX_ITEMS * len(row) + 3)
    assert 0 < len(seen) <= MAX_ENTRIES  # reading ended where the bound was met
    few = bytes([0x90 + most - 1]) + row * (most - 1)
    assert unpack(few, LIMIT) == [[1] * MAX_ITEMS] * (most - 1)


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.zeros(2, complex), np.zeros(2, "i4,f4"), object(), {1, 2}]
)
def test_what_is_no_number_is_not_sent(value) -> None:
    with pytest.raises(MessageError, match="can't send"):
        pack({"a": value})


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_a_reason(data) -> None:
    with contextlib.suppress(MessageError):
        unpack(data, LIMIT)
