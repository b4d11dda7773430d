"""What a healthy operation shows, as learnt from the first days of a cycle. No network, database or clock."""

from __future__ import annotations

import numpy as np

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
    house = filled(house_c - (start - bias_k), fit_on)
    columns = [quick, slow, slow * load, slow * load**2, quick * load**2, slow * house, quick * house]
    return highest - start, np.stack(columns, axis=-1)


def filled(values: np.ndarray, in_baseline: np.ndarray) -> np.ndarray:
    """Where a context value is missing, take the baseline's mean of it (0 when it is never given); each row for itself."""
    known = np.isfinite(values)
    told = known & in_baseline
    middle = np.where(told, values, 0.0).sum(axis=1) / np.maximum(told.sum(axis=1), 1)
    return np.where(told.any(axis=1)[:, None], np.where(known, values, middle[:, None]), 0.0)


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
    if not len(fitted):
        return np.zeros(target.shape), np.zeros(len(target))
    on = fit_on[:, fitted]
    of_fitted = explained_by[:, fitted]
    centre = np.where(on[..., None], of_fitted, 0.0).sum(axis=1) / n
    away = np.where(on[..., None], of_fitted - centre[:, None], 0.0)
    width = np.sqrt((away**2).sum(axis=1) / n)
    width = np.where(width > 1e-9, width, np.inf)
    y = np.where(on, target[:, fitted], np.nan)
    middle = _middle(y)[:, None]
    reach = 4.0 * 1.4826 * _middle(np.abs(y - middle))[:, None] + 1e-9
    y = np.clip(y, middle - reach, middle + reach)
    mean = np.nansum(y, axis=1)[:, None] / n
    x = away / width[:, None]
    turned = x.transpose(0, 2, 1)
    beyond = np.where(on, y - mean, 0.0)[:, :, None]
    weights = np.linalg.solve(turned @ x + _RIDGE * np.eye(x.shape[2]), turned @ beyond)
    # far outside what the baseline saw, a straight line is not believed: hold it at 3 standard deviations
    scaled = np.clip((explained_by - centre[:, None]) / width[:, None], -3.0, 3.0)
    predicted = mean + (scaled @ weights)[:, :, 0]
    scatter = 1.4826 * _middle(np.abs(y - (mean + (x @ weights)[:, :, 0])))
    return predicted, np.nan_to_num(scatter)


def _middle(values: np.ndarray) -> np.ndarray:
    """Median of the finite values of each row, of an even number the mean of the two in the middle; NaN of none."""
    ordered = np.sort(values, axis=1)
    counts = np.maximum(np.isfinite(values).sum(axis=1), 1)
    rows = np.arange(len(values))
    return np.asarray((ordered[rows, (counts - 1) // 2] + ordered[rows, counts // 2]) / 2.0)
