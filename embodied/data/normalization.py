"""Normalisation statistics of a dataset: numpy in, numpy out.

One pass in a fixed order with float64 sums, so equal data gives equal bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from embodied.core.errors import DataError

Statistics = dict[str, dict[str, np.ndarray]]
"""Key -> name -> float32 array: ``action`` -> ``low``, ``high`` [A] (1 % and 99 % quantiles);
each vector observation -> ``mean``, ``std``, ``low``, ``high`` (extremes) of its shape; each
camera image -> ``mean`` [H, W, 3] in 0..1; ``keyframe`` -> ``low``, ``high`` (extremes) [9], where
the data has keyframes."""

LOW_QUANTILE, HIGH_QUANTILE = 0.01, 0.99
_IMAGE, _OBS, _KEYFRAME = "_image_u8", "obs/", "extras/keyframe"


def statistics(episodes: Iterable[Mapping[str, np.ndarray]]) -> Statistics:
    """Computes statistics over episodes.

    Args:
      episodes: Mappings with ``chunk`` [T, K, A], ``chunk_valid`` [T, K] and ``obs/<key>``
        [T, ...], and ``extras/keyframe`` [T, 9] with ``extras/keyframe_valid`` [T] if at all.

    Returns:
      See `Statistics`. Vectors are the float32 observations of rank 1.

    Raises:
      DataError: If no episode holds a valid action.
    """
    actions: list[np.ndarray] = []
    keyframes: list[np.ndarray] = []
    sums: dict[str, list[np.ndarray]] = {}
    extremes: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    count = 0
    for episode in episodes:
        actions.append(episode["chunk"][episode["chunk_valid"]])
        if _KEYFRAME in episode:
            keyframes.append(episode[_KEYFRAME][episode[_KEYFRAME + "_valid"]])
        ticks = len(episode["chunk"])
        count += ticks
        for name, array in episode.items():
            key = name.removeprefix(_OBS)
            if name == key:
                continue
            if key.endswith(_IMAGE):
                total = [array.sum(0, dtype=np.float64)]
            elif array.dtype == np.float32 and array.ndim == 2:
                wide = array.astype(np.float64)
                total = [wide.sum(0), (wide**2).sum(0)]
                least, most = array.min(0), array.max(0)
                if key in extremes:
                    least = np.minimum(least, extremes[key][0])
                    most = np.maximum(most, extremes[key][1])
                extremes[key] = (least, most)
            else:
                continue
            sums[key] = (
                [a + b for a, b in zip(sums[key], total, strict=True)] if (key in sums) else total
            )
    flat = np.concatenate(actions) if actions else np.zeros((0, 1))
    if not len(flat):
        raise DataError("no valid action in the data: nothing to learn from; collect again")
    low, high = np.quantile(flat, [LOW_QUANTILE, HIGH_QUANTILE], axis=0)
    result = {"action": {"low": low.astype(np.float32), "high": high.astype(np.float32)}}
    reached = np.concatenate(keyframes) if keyframes else np.zeros((0, 9))
    if len(reached):
        result["keyframe"] = {"low": reached.min(0), "high": reached.max(0)}
    for key, total in sums.items():
        mean = total[0] / count
        if key.endswith(_IMAGE):
            result[key] = {"mean": (mean / 255.0).astype(np.float32)}
        else:
            variance = np.maximum(total[1] / count - mean**2, 0.0)
            result[key] = {
                "mean": mean.astype(np.float32),
                "std": np.sqrt(variance).astype(np.float32),
                "low": extremes[key][0],
                "high": extremes[key][1],
            }
    return result


def save_statistics(path: Path, values: Statistics) -> None:
    """Writes statistics as safetensors, names ``<key>/<name>``."""
    from safetensors.numpy import save

    from embodied.core.files import write_atomic

    flat = {f"{k}/{n}": np.ascontiguousarray(a) for k, part in values.items()
            for n, a in part.items()}  # fmt: skip
    write_atomic(path, save(flat))


def load_statistics(path: Path) -> Statistics:
    """Reads what `save_statistics` wrote.

    Raises:
      DataError: If the file is missing or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        flat = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is no readable safetensors file ({error})") from error
    result: Statistics = {}
    for name, array in flat.items():
        key, _, part = name.rpartition("/")
        result.setdefault(key, {})[part] = array
    return result
