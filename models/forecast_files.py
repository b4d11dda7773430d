"""Forecast files (DATASET format): written and read as Parquet. No clock, no network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from models.forecast import COLUMNS
from models.train import TrainingError

_SCHEMA = pa.schema(
    [
        ("gate_id", pa.string()),
        ("component", pa.string()),
        ("as_of", pa.timestamp("ms", tz="UTC")),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("p_7d", pa.float64()),
        ("p_14d", pa.float64()),
        ("p_21d", pa.float64()),
        ("ttf_p10_d", pa.float64()),
        ("ttf_p50_d", pa.float64()),
        ("ttf_p90_d", pa.float64()),
        ("failure_mode", pa.string()),
        ("failure_mode_share", pa.float64()),
        ("lost", pa.string()),
        ("model_version", pa.string()),
        ("curve", pa.list_(pa.float64())),
    ]
)


def write_forecasts(forecasts: pd.DataFrame, path: str | Path) -> None:
    """Write a forecast file (DATASET format) as Parquet; its ``attrs`` travel in the file's metadata."""
    absent = {"lost": pd.Series("", index=forecasts.index), "failure_mode_share": pd.Series(np.nan, index=forecasts.index)}
    columns = {**absent, **{name: forecasts[name] for name in COLUMNS if name in forecasts}}
    table_ = pa.Table.from_arrays(
        [pa.array(columns[field.name], type=field.type, from_pandas=True) for field in _SCHEMA], schema=_SCHEMA
    )
    about = json.dumps(forecasts.attrs, sort_keys=True).encode()
    pq.write_table(table_.replace_schema_metadata({b"sluicewatch": about}), Path(path), compression="zstd")


def read_forecasts(path: str | Path) -> pd.DataFrame:
    """Read a forecast file, ours or another's; an empty component becomes ``""``.

    Where they are absent, ``lost`` becomes ``""`` and ``failure_mode_share`` NaN.

    Raises
    ------
    TrainingError
        The file is missing, is not Parquet or lacks columns.
    """
    file = Path(path)
    if not file.is_file():
        raise TrainingError(f"forecast file {str(file)!r} does not exist")
    try:
        read = pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise TrainingError(f"{file.name} is not a Parquet file: {str(error).splitlines()[0]}") from None
    needed = ("gate_id", "component", "as_of", "verdict", "p_7d", "p_14d")
    missing = [name for name in needed if name not in read.column_names]
    if missing:
        raise TrainingError(f"{file.name} lacks the columns {', '.join(missing)}")
    frame: pd.DataFrame = read.to_pandas()
    if not pd.api.types.is_datetime64_any_dtype(frame["as_of"]):
        raise TrainingError(f"{file.name}: as_of must be a timestamp; got {frame['as_of'].dtype}")
    frame["as_of"] = pd.to_datetime(frame["as_of"], utc=True).astype("datetime64[ms, UTC]")
    frame["component"] = frame["component"].astype(object).where(frame["component"].notna(), "")
    if "lost" not in frame:
        frame["lost"] = ""
    if "failure_mode_share" not in frame:
        frame["failure_mode_share"] = np.nan
    about = (read.schema.metadata or {}).get(b"sluicewatch")
    frame.attrs = json.loads(about) if about else {}
    return frame
