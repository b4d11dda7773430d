"""The dataset folder (format ``sluicewatch-dataset/1``), read and written. Public contract; see docs/dataset.md.

One folder is one fleet's history. Reading checks everything first and refuses with every gap at once, each with its
fix.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BadInput
from pipeline.readings import ID_PATTERN, Channel, ReadingError, find_conversion
from pipeline.spectra import Machine, indicators
from pipeline.waveforms import Burst, WaveformError, decode

FORMAT = "sluicewatch-dataset/1"

KINDS = ("failure", "repair", "replacement", "lubrication", "inspection")
"""What a maintenance record may be."""

FINDINGS = (
    "confirmed_failure",
    "confirmed_degradation",
    "prevented_by_maintenance",
    "no_fault_found",
    "false_alarm",
    "not_inspected",
    "duplicate",
)
"""What a visit that an alert led to may have found."""


@dataclass(frozen=True, slots=True)
class _Table:
    required: tuple[str, ...]
    text: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    instants: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        texts = [name for name in self.required if name not in self.instants] + list(self.text)
        return texts + list(self.instants) + list(self.numbers)


TABLES = {
    "stations": _Table(
        ("station_id",),
        text=("name", "name_zh", "basin", "river", "downstream_station_id", "time_zone"),
        numbers=("river_km", "latitude", "longitude"),
    ),
    "gates": _Table(
        ("gate_id", "station_id"),
        text=("name", "name_zh", "gate_type", "hoist_type", "role", "criticality", "commissioned_on"),
        numbers=("travel_m",),
    ),
    "components": _Table(
        ("gate_id", "component"),
        text=("iso_class",),
        numbers=(
            "rated_power_kw",
            "rated_current_a",
            "speed_rpm",
            "bearing_balls",
            "bearing_ball_mm",
            "bearing_pitch_mm",
            "bearing_angle_deg",
            "gear_teeth",
        ),
    ),
    "channels": _Table(
        ("gate_id", "component", "quantity", "unit"),
        text=("point", "axis"),
        numbers=("band_low_hz", "band_high_hz", "interval_s"),
    ),
    "maintenance": _Table(
        ("gate_id", "kind", "started_at"),
        text=("component", "failure_mode", "finding", "alert_id", "note"),
        instants=("started_at", "ended_at"),
    ),
}


class DatasetError(BadInput):
    """A folder that is not a dataset; the message lists every gap, one a line, each with its fix."""


@dataclass(slots=True)
class Dataset:
    """One fleet's history, opened from a folder.

    The tables are DataFrames with every column of the format: text columns hold ``""`` where nothing was given, number
    columns NaN, instants (``started_at``, ``ended_at``) NaT; ``*`` is expanded into one row per gate.
    """

    path: Path
    source: str
    licence: str
    stations: pd.DataFrame
    gates: pd.DataFrame
    components: pd.DataFrame
    channels: pd.DataFrame
    maintenance: pd.DataFrame
    _files: dict[str, Path] = field(repr=False, default_factory=dict)

    @property
    def gate_ids(self) -> list[str]:
        """Every gate, sorted."""
        return sorted(self.gates["gate_id"])

    def declared(self, gate_id: str) -> list[Channel]:
        """The channels of one gate, as declared."""
        rows = self.channels[self.channels["gate_id"] == gate_id]
        return [
            Channel(
                gate_id=row["gate_id"],
                component=row["component"],
                quantity=row["quantity"],
                unit=row["unit"],
                point=row["point"],
                axis=row["axis"],
                band_low_hz=_none_if_nan(row["band_low_hz"]),
                band_high_hz=_none_if_nan(row["band_high_hz"]),
                interval_s=_none_if_nan(row["interval_s"]),
            )
            for row in rows.to_dict("records")
        ]

    def readings(self, gate_id: str) -> pd.DataFrame:
        """Readings of one gate in canonical units.

        Returns
        -------
        DataFrame
            Column ``ts`` (datetime64[ms, UTC]), sorted and unique, and one float column per channel in the file, named
            by `Channel.key`; among them what `pipeline.spectra.indicators` finds in the gate's bursts, as far as channels.csv
            declares it. Rows with one ``ts`` are merged channel by channel, the greater of two values staying.

        Raises
        ------
        DatasetError
            A column is not declared in channels.csv, the times cannot be read, or a burst is none.
        """
        parts = [part for part in (self._measured(gate_id), self._found_in_bursts(gate_id)) if part is not None]
        if not parts:
            return pd.DataFrame({"ts": pd.Series(dtype="datetime64[ms, UTC]")})
        return merge_rows(pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0])

    def _measured(self, gate_id: str) -> pd.DataFrame | None:
        """What the readings file holds, in canonical units, as it stands there."""
        if gate_id not in self._files:
            return None
        frame = _read_readings_file(self._files[gate_id])
        declared = {channel.key: channel for channel in self.declared(gate_id)}
        unknown = [name for name in frame.columns if name != "ts" and name not in declared]
        if unknown:
            raise DatasetError(
                f"{self._files[gate_id].name}: columns {', '.join(unknown)} are not declared; add them to channels.csv"
            )
        for name in frame.columns.drop("ts"):
            conversion = find_conversion(declared[name].quantity, declared[name].unit)
            frame[name] = frame[name].astype("float64") * conversion.factor + conversion.offset
        return frame

    def _found_in_bursts(self, gate_id: str) -> pd.DataFrame | None:
        """What the bursts show of the channels that are declared at their points, a row a burst."""
        rows = []
        components = self.components[self.components["gate_id"] == gate_id].set_index("component")
        for component, point in sorted(
            {(channel.component, channel.point) for channel in self.declared(gate_id) if channel.point}
        ):
            machine = Machine.of(components.loc[component].to_dict()) if component in components.index else Machine()
            wanted = {
                channel.quantity: channel.key
                for channel in self.declared(gate_id)
                if (channel.component, channel.point) == (component, point)
            }
            for file in sorted((self.path / "waveforms" / gate_id / f"{component}.{point}").glob("*.bin")):
                burst = _read_burst(file, self.path)
                found = indicators(burst, machine)
                rows.append({"ts": burst.t, **{key: found[quantity] for quantity, key in wanted.items() if quantity in found}})
        if not rows:
            return None
        frame = pd.DataFrame(rows)
        frame["ts"] = frame["ts"].astype("datetime64[ms, UTC]")
        return frame


def merge_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort by ``ts`` and merge rows with one ``ts`` channel by channel; of two different values the greater stays."""
    ts = frame["ts"]
    if ts.is_monotonic_increasing and ts.is_unique:
        return frame.reset_index(drop=True)
    merged = frame.groupby("ts", sort=True).max()
    return merged.reset_index()[list(frame.columns)]


def open_dataset(path: str | Path, *, need_readings: bool = True) -> Dataset:
    """Open a dataset folder and check its tables.

    Parameters
    ----------
    path : str or Path
    need_readings : bool
        False where the tables are enough: a fleet can be registered before its first reading.

    Raises
    ------
    DatasetError
        Listing every gap at once, each with its fix.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DatasetError(f"dataset folder {str(folder)!r} does not exist")
    gaps: list[str] = []
    head = _read_head(folder, gaps)
    tables = {name: _read_table(folder, name, gaps) for name in TABLES}
    if not gaps:
        _check_tables(tables, gaps)
    files = {} if gaps else _find_readings(folder, tables["gates"])
    if not gaps and not files and need_readings and not (folder / "waveforms").is_dir():
        gaps.append("readings/ holds no file of any gate in gates.csv; write readings/<gate_id>.parquet or .csv")
    if gaps:
        raise DatasetError("\n".join([f"{folder.name} is not a dataset that can be used:", *(f"  - {gap}" for gap in gaps)]))
    gate_ids = sorted(tables["gates"]["gate_id"])
    for name in ("components", "channels"):
        tables[name] = _expand_star(tables[name], gate_ids)
    return Dataset(path=folder, source=str(head.get("source", "")), licence=str(head.get("licence", "")), _files=files, **tables)


def write_tables(
    path: str | Path,
    *,
    source: str,
    licence: str,
    stations: pd.DataFrame | None = None,
    gates: pd.DataFrame,
    components: pd.DataFrame | None = None,
    channels: pd.DataFrame,
    maintenance: pd.DataFrame,
) -> None:
    """Write everything of a dataset folder but its readings; instants as RFC 3339 UTC, numbers at full precision.

    Every file is whole or is not there, and ``dataset.json``, without which the folder is no dataset, comes last.
    """
    folder = Path(path)
    (folder / "readings").mkdir(parents=True, exist_ok=True)
    given = {
        "stations": stations,
        "gates": gates,
        "components": components,
        "channels": channels,
        "maintenance": maintenance,
    }
    for name, table in given.items():
        if table is None:
            continue
        out = table.copy()
        for column in TABLES[name].instants:
            if column in out:
                out[column] = [_rfc3339(value) for value in out[column]]
        known = [column for column in TABLES[name].columns if column in out]
        out = out[known + [column for column in out.columns if column not in known]]
        with _in_one_go(folder / f"{name}.csv") as part:
            out.to_csv(part, index=False, lineterminator="\n")
    head = {"format": FORMAT, "source": source, "licence": licence}
    with _in_one_go(folder / "dataset.json") as part:
        part.write_text(json.dumps(head, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _in_one_go(file: Path) -> Iterator[Path]:
    """A file beside `file` that takes its place, on disk, when all of it is written."""
    part = file.with_name(file.name + ".part")
    yield part
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    part.replace(file)


def write_readings(path: str | Path, gate_id: str, frame: pd.DataFrame) -> None:
    """Write one gate's readings (``ts`` aware UTC, one float column per channel) as Parquet; same input, same bytes."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    with _in_one_go(Path(path) / "readings" / f"{gate_id}.parquet") as part:
        pq.write_table(table, part, compression="zstd", compression_level=6)


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _rfc3339(value: Any) -> str:
    if value is None or pd.isna(value):
        return ""
    return pd.Timestamp(value).tz_convert("UTC").isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read_head(folder: Path, gaps: list[str]) -> dict[str, Any]:
    try:
        head = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        gaps.append(f'dataset.json is missing; write {{"format": "{FORMAT}", "source": "…", "licence": "…"}}')
        return {}
    except ValueError as error:
        gaps.append(f"dataset.json is not JSON: {error}")
        return {}
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        came = head.get("format") if isinstance(head, dict) else head
        gaps.append(f"dataset.json: format must be {FORMAT!r}; got {came!r}")
        return {}
    return head


def _read_table(folder: Path, name: str, gaps: list[str]) -> pd.DataFrame:
    spec = TABLES[name]
    file = folder / f"{name}.csv"
    if not file.is_file():
        if name not in ("stations", "components"):
            gaps.append(f"{name}.csv is missing; it needs the columns {', '.join(spec.required)}")
        return _typed(pd.DataFrame(), name, gaps)
    try:
        raw = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, UnicodeDecodeError) as error:
        gaps.append(f"{name}.csv cannot be read: {error}")
        return _typed(pd.DataFrame(), name, gaps)
    missing = [column for column in spec.required if column not in raw.columns]
    if missing:
        gaps.append(f"{name}.csv lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}")
    return _typed(raw, name, gaps)


def _typed(raw: pd.DataFrame, name: str, gaps: list[str]) -> pd.DataFrame:
    spec = TABLES[name]
    out = pd.DataFrame(index=raw.index)
    for column in spec.columns:
        cells = raw[column].str.strip() if column in raw else pd.Series("", index=raw.index, dtype=str)
        if column in spec.numbers:
            numbers = pd.to_numeric(cells.where(cells != ""), errors="coerce").astype("float64")
            for line in np.flatnonzero(numbers.isna() & (cells != ""))[:5]:
                gaps.append(f"{name}.csv line {line + 2}: {column} must be a number; got {cells.iloc[line]!r}")
            out[column] = numbers
        elif column in spec.instants:
            out[column] = _parse_instants(cells, f"{name}.csv", column, gaps)
        else:
            out[column] = cells.astype(object)
    for column in spec.required:
        if column in raw:
            for line in np.flatnonzero(raw[column].str.strip() == "")[:5]:
                gaps.append(f"{name}.csv line {line + 2}: {column} must not be empty")
    return out


def _parse_instants(cells: pd.Series, where: str, column: str, gaps: list[str]) -> pd.Series:
    filled = cells.where(cells != "")
    has_offset = cells.str.contains(r"(?:Z|[+-]\d{2}:?\d{2})$", regex=True)
    instants = pd.to_datetime(filled.where(has_offset), utc=True, errors="coerce", format="ISO8601")
    for line in np.flatnonzero(instants.isna() & (cells != ""))[:5]:
        gaps.append(
            f"{where} line {line + 2}: {column} must be RFC 3339 with an offset, e.g. 2026-03-01T08:15:00Z; "
            f"got {cells.iloc[line]!r}"
        )
    return instants.astype("datetime64[ms, UTC]")


def _check_tables(tables: dict[str, pd.DataFrame], gaps: list[str]) -> None:
    gates, channels, maintenance = tables["gates"], tables["channels"], tables["maintenance"]
    known = set(gates["gate_id"])
    if not known:
        gaps.append("gates.csv has no gate")
    for line in np.flatnonzero(gates["gate_id"].duplicated())[:5]:
        gaps.append(f"gates.csv line {line + 2}: gate_id {gates['gate_id'].iloc[line]!r} stands twice; keep one")
    for name, columns in {"gates": ("gate_id", "station_id"), "channels": ("component", "point")}.items():
        for column in columns:
            for line, cell in enumerate(tables[name][column]):
                if cell and not ID_PATTERN.match(cell):
                    gaps.append(f"{name}.csv line {line + 2}: {column} must be 1 to 128 letters, digits, _ or -; got {cell!r}")
    for name in ("components", "channels", "maintenance"):
        star = set() if name == "maintenance" else {"*"}
        for line, cell in enumerate(tables[name]["gate_id"]):
            if cell not in known | star:
                gaps.append(f"{name}.csv line {line + 2}: gate_id {cell!r} is not in gates.csv; add it there or mend it")
    for line, row in enumerate(channels.to_dict("records")):
        try:
            find_conversion(row["quantity"], row["unit"])
        except ReadingError as error:
            gaps.append(f"channels.csv line {line + 2} ({row['component']}): {error}")
    for column, allowed in {"kind": KINDS, "finding": ("", *FINDINGS)}.items():
        for line, cell in enumerate(maintenance[column]):
            if cell not in allowed:
                gaps.append(
                    f"maintenance.csv line {line + 2}: {column} must be one of {', '.join(a for a in allowed if a)}; got {cell!r}"
                )
    for line in np.flatnonzero(maintenance["ended_at"] < maintenance["started_at"])[:5]:
        gaps.append(f"maintenance.csv line {line + 2}: ended_at lies before started_at")


def _read_burst(file: Path, folder: Path) -> Burst:
    try:
        return decode(file.read_bytes())
    except WaveformError as error:
        raise DatasetError(f"{file.relative_to(folder)}: {error}") from None


def _find_readings(folder: Path, gates: pd.DataFrame) -> dict[str, Path]:
    files = {}
    for gate_id in gates["gate_id"]:
        for ending in ("parquet", "csv", "csv.gz"):
            file = folder / "readings" / f"{gate_id}.{ending}"
            if file.is_file():
                files[gate_id] = file
                break
    return files


def _expand_star(table: pd.DataFrame, gate_ids: Sequence[str]) -> pd.DataFrame:
    starred = table[table["gate_id"] == "*"]
    every = [starred.assign(gate_id=gate_id) for gate_id in gate_ids] if len(starred) else []
    expanded = pd.concat([table[table["gate_id"] != "*"], *every], ignore_index=True)
    identity = [name for name in ("gate_id", "component", "point", "quantity") if name in table]
    # a gate's own line comes before the line for all gates
    return expanded.drop_duplicates(identity, keep="first").sort_values(identity, ignore_index=True)


def _read_readings_file(file: Path) -> pd.DataFrame:
    if file.suffix == ".parquet":
        frame: pd.DataFrame = pq.read_table(file).to_pandas()
        if "ts" not in frame:
            raise DatasetError(f"{file.name}: the column ts is missing")
        ts = frame["ts"]
        if not pd.api.types.is_datetime64_any_dtype(ts):
            raise DatasetError(f"{file.name}: ts must be a timestamp; got {ts.dtype}")
        instants = ts.dt.tz_localize("UTC") if ts.dt.tz is None else ts.dt.tz_convert("UTC")
    else:
        frame = pd.read_csv(file, dtype={"ts": str}, encoding="utf-8-sig")
        if "ts" not in frame:
            raise DatasetError(f"{file.name}: the column ts is missing")
        gaps: list[str] = []
        instants = _parse_instants(frame["ts"].fillna(""), file.name, "ts", gaps)
        if gaps or instants.isna().any():
            raise DatasetError("\n".join(gaps) or f"{file.name}: ts must not be empty")
    wrong = [name for name in frame.columns if name != "ts" and not pd.api.types.is_numeric_dtype(frame[name])]
    if wrong:
        raise DatasetError(f"{file.name}: columns {', '.join(wrong)} must hold numbers only")
    frame["ts"] = instants.astype("datetime64[ms, UTC]")
    return frame
