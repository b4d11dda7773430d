"""Independent streams of random numbers. Nothing here draws; it only says which stream belongs to whom.

Every draw of the simulator comes from a stream keyed by its layer, its gate and what it is for. So switching one layer off
(sensor faults, inspections) leaves every other layer's draws as they were, and a gate does not depend on its neighbours.
"""

from enum import IntEnum

import numpy as np


class Layer(IntEnum):
    """The layers of the simulator, from outside to inside. The numbers are part of the seed: never renumber them."""

    FLEET = 0
    WEATHER = 1
    DUTY = 2
    WEAR = 3
    UPKEEP = 4
    SIGNAL = 5
    SENSOR = 6


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
