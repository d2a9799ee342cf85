"""Random numbers of many episodes at once, each from its own seed and a purpose alone.

Where :func:`embodied.core.rng.derive` makes one generator, these functions give the numbers of
a whole batch: number j of an episode is a hash of (seed, purpose, salt, j), so it depends on no
other row, no earlier call and no machine. Shape letter: n episodes.

**Source** of the hash: the finaliser of SplitMix64 (Steele, Lea, Flood 2014), whose state is a
counter.
"""

from __future__ import annotations

import zlib

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = tuple(np.uint64(bits) for bits in (30, 27, 31))
_HALF = np.uint64(32)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> _SHIFTS[0])) * _FIRST
    z = (z ^ (z >> _SHIFTS[1])) * _SECOND
    return z ^ (z >> _SHIFTS[2])


def words(
    seeds: np.ndarray, purpose: str, count: int, salt: np.ndarray | int | None = None
) -> np.ndarray:
    """Returns uint64 [n, count] of uniform bits.

    Args:
      seeds: int64 [n], each >= 0.
      purpose: What the numbers are for, for example ``"ballet/homes"``.
      count: Numbers an episode.
      salt: int64 [n] or a number, for streams within a purpose, for example the tick.
    """
    tag = np.uint64(zlib.crc32(purpose.encode()))
    key = _mix(_mix(seeds.astype(np.uint64) + _STEP) ^ tag)
    if salt is not None:
        key = _mix(key + np.atleast_1d(salt).astype(np.uint64) * _SECOND)
    return _mix(key[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _STEP)


def integers(
    seeds: np.ndarray,
    purpose: str,
    high: int | np.ndarray,
    count: int,
    salt: np.ndarray | int | None = None,
) -> np.ndarray:
    """Returns int64 [n, count] uniform in 0..high-1; see `words`.

    `high` is a number or broadcasts to [n, count]; the bias is below high / 2**32.
    """
    upper = words(seeds, purpose, count, salt) >> _HALF
    return ((upper * np.asarray(high, np.uint64)) >> _HALF).astype(np.int64)


def uniforms(seeds: np.ndarray, purpose: str, count: int) -> np.ndarray:
    """Returns float64 [n, count] uniform in [0, 1), multiples of 2**-53; see `words`."""
    return (words(seeds, purpose, count) >> np.uint64(11)) * 2.0**-53


def permutations(
    seeds: np.ndarray,
    purpose: str,
    size: int,
    salt: np.ndarray | int | None = None,
) -> np.ndarray:
    """Returns int64 [n, size]: a random order of 0..size-1 for each episode; see `words`."""
    return shuffled(words(seeds, purpose, size, salt))


def shuffled(bits: np.ndarray) -> np.ndarray:
    """Returns int64 [n, size]: the order of 0..size-1 that `bits` uint64 [n, size] give.

    The element stands in the lowest bits, so sorting is the shuffle and no two are ever equal.
    """
    size = bits.shape[1]
    mask = np.uint64((1 << max(1, (size - 1).bit_length())) - 1)
    tagged = bits & ~mask | np.arange(size, dtype=np.uint64)
    tagged.sort(axis=1)
    return (tagged & mask).astype(np.int64)


def codes(
    seeds: np.ndarray, purpose: str, count: int, salt: np.ndarray | int | None = None
) -> np.ndarray:
    """Returns float32 [n, count, 32]: random codes with elements -1 and 1; see `words`."""
    bits = (words(seeds, purpose, count, salt) >> _HALF).astype("<u4")
    signs = np.unpackbits(bits.view(np.uint8).reshape(*bits.shape, 4), axis=-1)
    return signs.astype(np.float32) * 2 - 1


CODE_SIZE = 32
"""Length of a code: 64 of them are all different but in one episode of two millions."""


def balanced_cues(seeds: np.ndarray, name: str, n_cues: int) -> np.ndarray:
    """Returns int64 [n]: each block of `n_cues` seeds in a row holds every cue once."""
    order = permutations(seeds // n_cues, f"{name}/cue", n_cues)
    return order[np.arange(len(seeds)), seeds % n_cues]
