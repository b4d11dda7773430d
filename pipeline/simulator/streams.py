"""Independent streams of random numbers. Nothing here knows what they are for; it only says which belong to whom.

Every draw of the simulator comes from a stream keyed by its layer, its gate and what it is for. So switching one layer off
(sensor faults, inspections, a scenario's weather) leaves every other layer's draws as they were, and a gate does not depend on
its neighbours.

Noise needs more: a run that is not made, or one more, must leave the noise of every other run alone. `hashed` therefore draws by
name instead of in order: the same key and number give the same value, whatever else is drawn.
"""

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


class Layer(IntEnum):
    """The layers of the simulator, from outside to inside. The numbers are part of the seed: never renumber them."""

    FLEET = 0
    WEATHER = 1
    DUTY = 2
    WEAR = 3
    UPKEEP = 4
    SIGNAL = 5
    SENSOR = 6
    TRANSPORT = 7
    SCENARIO = 8
    WAVEFORM = 9
    INJECTION = 10
    ORACLE = 11


def stream(seed: int, layer: Layer, *key: int) -> np.random.Generator:
    """Return the stream of one layer and key, the same for the same arguments.

    Examples
    --------
    >>> bool(stream(7, Layer.WEAR, 3).random() == stream(7, Layer.WEAR, 3).random())
    True
    >>> bool(stream(7, Layer.WEAR, 3).random() == stream(7, Layer.WEAR, 4).random())
    False
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(layer), *key)))


def hash_key(seed: int, layer: Layer, *key: int) -> np.uint64:
    """Return the key of a family of hashed draws, for `hashed`."""
    return np.random.SeedSequence(seed, spawn_key=(int(layer), *key)).generate_state(1, np.uint64)[0]  # type: ignore[no-any-return]


def hashed(key: np.uint64, names: Ints) -> Floats:
    """Uniform draws in (0, 1), one for each name (any integer): each depends on its own name and the key alone.

    Examples
    --------
    >>> key = hash_key(7, Layer.SIGNAL, 0)
    >>> bool(hashed(key, np.array([4, 9]))[1] == hashed(key, np.array([9]))[0])
    True

    References
    ----------
    Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators": the finalizer of SplitMix64.
    """
    x = names.astype(np.uint64) * _GOLDEN + key
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    x ^= x >> np.uint64(31)
    # 52 bits: the largest is still below 1, where quantile functions are finite
    uniform: Floats = ((x >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return uniform
