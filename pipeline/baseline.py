"""What a healthy operation shows, as learnt from the first days of a cycle. No network, database or clock."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.trends import nan_max

_RIDGE = 3.0
HEATING_MINUTES = (8.0, 30.0)
"""Time constants of small points (brake linings, bearings) and large ones (windings, oil)."""


def rise(
    minutes: np.ndarray,
    house_c: np.ndarray,
    highest: np.ndarray,
    start: np.ndarray,
    bias_k: np.ndarray,
    load: np.ndarray,
    fit_on: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """How far each operation warmed each point (K), and what explains it; shapes (points, operations) and with columns.

    Newton: the rise goes towards what load and house would make it, the faster the further the start is from there. Small
    points follow within minutes, large ones within half an hour; between them lies what a ridge finds.
    """
    quick, slow = (1.0 - np.exp(-minutes / of_heating) for of_heating in HEATING_MINUTES)
    house = np.array([filled(cooler, fit_on) for cooler in house_c - (start - bias_k)])
    columns = [quick, slow, slow * load, slow * load**2, quick * load**2, slow * house, quick * house]
    return highest - start, np.stack([np.broadcast_to(column, start.shape) for column in columns], axis=-1)


def house(ops: Mapping[str, np.ndarray]) -> np.ndarray:
    """Temperature around the gate at each operation: as measured, else that of the point which was coolest at its start."""
    starts = [column for name, column in ops.items() if name.endswith("temperature:start")]
    coolest = -nan_max(-np.vstack(starts)) if starts else np.full(len(ops["minutes"]), np.nan)
    return np.where(np.isnan(ops["ambient_temperature"]), coolest, ops["ambient_temperature"])


def filled(values: np.ndarray, in_baseline: np.ndarray) -> np.ndarray:
    """Where a context value is missing, take the baseline's mean of it (0 when it is never given)."""
    known = np.isfinite(values)
    if not (known & in_baseline).any():
        return np.zeros(len(values))
    return np.where(known, values, values[known & in_baseline].mean())


def ridge(explained_by: np.ndarray, target: np.ndarray, fit_on: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit each row of `target` on standardised columns with a ridge that leaves the mean free; outliers are pulled in first.

    Parameters
    ----------
    explained_by : shape (rows of target, or 1 for the same for all; operations; columns)
    target, fit_on : shape (rows, operations)

    Returns
    -------
    The prediction for every operation and the robust scatter of the fitted ones; 0 for a row without any.
    """
    n = np.maximum(fit_on.sum(axis=1), 1)[:, None]
    fitted = np.flatnonzero(fit_on.any(axis=0))
    fit_on_each = fit_on[:, fitted, None]
    of_fitted = explained_by[:, fitted]
    centre = np.where(fit_on_each, of_fitted, 0.0).sum(axis=1) / n
    width = np.sqrt((np.where(fit_on_each, of_fitted - centre[:, None], 0.0) ** 2).sum(axis=1) / n)
    width = np.where(width > 1e-9, width, np.inf)
    y = np.where(fit_on, target, np.nan)
    middle = _middle(y)[:, None]
    reach = 4.0 * 1.4826 * _middle(np.abs(y - middle))[:, None] + 1e-9
    y = np.clip(y, middle - reach, middle + reach)
    scaled = (explained_by - centre[:, None]) / width[:, None]
    mean = np.nansum(y, axis=1)[:, None] / n
    x = np.zeros(scaled.shape)
    x[:, fitted] = np.where(fit_on_each, scaled[:, fitted], 0.0)
    turned = x.transpose(0, 2, 1)
    away = np.where(fit_on, y - mean, 0.0)[:, :, None]
    weights = np.linalg.solve(turned @ x + _RIDGE * np.eye(x.shape[2]), turned @ away)
    # far outside what the baseline saw, a straight line is not believed: hold it at 3 standard deviations
    predicted = mean + (np.clip(scaled, -3.0, 3.0) @ weights)[:, :, 0]
    scatter = 1.4826 * _middle(np.abs(y - (mean + (x @ weights)[:, :, 0])))
    return predicted, np.nan_to_num(scatter)


def _middle(values: np.ndarray) -> np.ndarray:
    """Median of the finite values of each row, of an even number the mean of the two in the middle; NaN of none."""
    ordered = np.sort(values, axis=1)
    counts = np.maximum(np.isfinite(values).sum(axis=1), 1)
    rows = np.arange(len(values))
    return np.asarray((ordered[rows, (counts - 1) // 2] + ordered[rows, counts // 2]) / 2.0)
