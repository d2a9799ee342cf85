"""The wire format: msgpack maps whose arrays are maps with byte-string keys, as openpi has them.

What comes in is not trusted: its bytes are counted before it is read and its entries while it is
read, only plain numbers make an array, and nothing that could run code exists in the format.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

from embodied.core.errors import EmbodiedError

ARRAY, GENERIC = b"__ndarray__", b"__npgeneric__"
DATA, DTYPE, SHAPE = b"data", b"dtype", b"shape"

KINDS = "biuf"
"""numpy's letters of what an array may hold: flags, whole numbers, floating-point numbers."""
MAX_ITEMS, MAX_AXES, MAX_DEPTH = 1024, 8, 16
MAX_ENTRIES = 16 * MAX_ITEMS
"""Of all maps and lists of a message together, each counting as one more: an empty map is one byte
of a message and 64 of memory. What has not ended is not counted yet, so `MAX_ITEMS` bounds it."""


class MessageError(EmbodiedError):
    """A message that is no observation: malformed, too large, or of a kind that is refused."""


def pack(message: Any) -> bytes:
    """Returns the bytes of a message.

    Args:
      message: Maps, lists, strings, numbers, and numpy arrays of plain numbers.

    Raises:
      MessageError: For an array of objects, records or complex numbers.
    """
    packed: bytes = msgpack.packb(message, default=_encoded)
    return packed


def _encoded(value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise MessageError(f"can't send a {type(value).__name__}; send numbers, text and arrays")
    if value.dtype.kind not in KINDS:
        raise MessageError(f"can't send an array of {value.dtype}; send plain numbers")
    if isinstance(value, np.generic):
        return {GENERIC: True, DATA: value.item(), DTYPE: value.dtype.str}
    return {ARRAY: True, DATA: value.tobytes(), DTYPE: value.dtype.str, SHAPE: value.shape}


def unpack(data: bytes, max_bytes: int) -> Any:
    """Returns the message in some bytes.

    Args:
      data: What came.
      max_bytes: Largest message that is looked at.

    Raises:
      MessageError: For anything but one whole message within the bounds. Reading stops at the
        container that goes beyond them.
    """
    if len(data) > max_bytes:
        raise MessageError(f"the message has {len(data):,} bytes; at most {max_bytes:,} are read")
    bound = _Bound()
    try:
        message = msgpack.unpackb(
            data,
            object_hook=bound.mapped,
            list_hook=bound.listed,
            strict_map_key=True,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
    except MessageError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise MessageError(f"the message is no msgpack map: {reason[:200]}") from error
    _check_depth(message, 0)
    return message


class _Bound:
    """Takes a message's maps and lists as they end, the innermost first, and counts them."""

    def __init__(self) -> None:
        self._left = MAX_ENTRIES

    def mapped(self, fields: dict[Any, Any]) -> Any:
        self._count(len(fields))
        return _decoded(fields)

    def listed(self, items: list[Any]) -> list[Any]:
        self._count(len(items))
        return items

    def _count(self, entries: int) -> None:
        self._left -= 1 + entries
        if self._left < 0:
            raise MessageError(
                f"the message holds more than {MAX_ENTRIES:,} entries in its maps and lists; send "
                "numbers as arrays"
            )


def _decoded(fields: dict[Any, Any]) -> Any:
    if ARRAY in fields:
        return _array(fields)
    if GENERIC in fields:
        dtype = _dtype(fields.get(DTYPE))
        value = fields.get(DATA)
        if not isinstance(value, (bool, int, float)):
            raise MessageError(f"a scalar must be a number, got {type(value).__name__}")
        return dtype.type(value)
    return fields


def _array(fields: dict[Any, Any]) -> np.ndarray:
    dtype, data, shape = _dtype(fields.get(DTYPE)), fields.get(DATA), fields.get(SHAPE)
    if not isinstance(data, bytes):
        raise MessageError(f"the data of an array must be bytes, got {type(data).__name__}")
    if not isinstance(shape, list):
        raise MessageError(f"the shape of an array must be a list, got {type(shape).__name__}")
    if len(shape) > MAX_AXES or not all(type(size) is int and size >= 0 for size in shape):
        got = [size if type(size) is int else type(size).__name__ for size in shape[:MAX_AXES]]
        raise MessageError(
            f"the shape of an array must be at most {MAX_AXES} whole numbers >= 0, got "
            f"{len(shape)}: {got}"
        )
    needed = math.prod(shape) * dtype.itemsize
    if needed != len(data):
        raise MessageError(
            f"an array of {dtype}{shape} has {needed:,} bytes, and {len(data):,} came"
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _dtype(name: Any) -> np.dtype[Any]:
    # Only letters and a size: numpy would read longer texts as a description of records.
    if isinstance(name, bytes):
        name = name[:80].decode("ascii", "replace")
    if not isinstance(name, str) or len(name) > 8:
        got = repr(name[:80]) if isinstance(name, str) else type(name).__name__
        raise MessageError(f"a dtype must be a short text such as '<f4', got {got}")
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError) as error:
        raise MessageError(f"{name!r} is no dtype of numbers") from error
    if dtype.kind not in KINDS or dtype.itemsize > 8:
        raise MessageError(f"arrays of {name!r} are refused; send flags or numbers up to 64 bits")
    return dtype


def _check_depth(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise MessageError(f"the message is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return
    for item in value:
        _check_depth(item, depth + 1)
