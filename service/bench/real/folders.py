"""Open data sets as dataset folders: what each bearing or loop is called here, and how its files are read.

The product counts in days, the rigs ran for hours or weeks: where a folder is written `stretched`, one minute (or hour) of the
rig is told as one day, so that the very same baselines, trends and labels apply. Nothing else is changed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.dataset import write_readings, write_tables
from pipeline.errors import BadInput
from pipeline.simulator.waveforms import to_burst
from pipeline.waveforms import burst_path, encode

Floats = npt.NDArray[np.float64]

SKAB, FEMTO, IMS = "open_skab.zip", "open_femto_learning_every6.zip", "open_ims_sets2_3.zip"

ORIGIN = datetime(2004, 1, 1, tzinfo=UTC)
"""Midnight at which stretched records start."""

COMPONENT, BEARING = "motor", "bearing_de"
"""A rig's bearing is told as that of a motor."""

FROM_BURST = (
    "acceleration_rms",
    "acceleration_peak",
    "kurtosis",
    "crest_factor",
    "envelope_bpfo",
    "envelope_bpfi",
    "envelope_bsf",
)
"""What the product makes of the bursts here; they are too short for the cage's frequency, FEMTO's for velocity too."""

_UNITS = {"kurtosis": "1", "crest_factor": "1"}


@dataclass(frozen=True, slots=True)
class Geometry:
    """The rolling bearing of a rig: balls, ball and pitch diameter (mm), contact angle (degrees)."""

    balls: int
    ball_mm: float
    pitch_mm: float
    angle_deg: float = 0.0

    def row(self, gate_id: str, speed_rpm: float) -> dict[str, object]:
        """A line of components.csv."""
        return {
            "gate_id": gate_id,
            "component": COMPONENT,
            "speed_rpm": speed_rpm,
            "bearing_balls": self.balls,
            "bearing_ball_mm": self.ball_mm,
            "bearing_pitch_mm": self.pitch_mm,
            "bearing_angle_deg": self.angle_deg,
        }


PRONOSTIA = Geometry(13, 3.5, 25.6)
"""Nectoux et al. (2012), "PRONOSTIA: an experimental platform for bearings accelerated degradation tests"."""

REXNORD = Geometry(16, 8.4, 71.5, 15.17)
"""Rexnord ZA-2115 of the IMS rig: Qiu, Lee, Lin and Yu (2006), "Wavelet filter-based weak signature detection method"."""

FEMTO_RPM = {"1": 1800.0, "2": 1650.0, "3": 1500.0}
FEMTO_RATE_HZ, FEMTO_A_MINUTE = 25_600.0, 6
"""Snapshots were taken every 10 s; their files are numbered from 1."""

FEMTO_POINTS = ("horizontal", "vertical")
IMS_RATE_HZ, IMS_RPM = 20_000.0, 2000.0

SKAB_FIT_ROWS = 400
SKAB_RATED_FLOW = 32.0
"""Litres a minute that count as full load of the loop's pump."""

SKAB_CHANNELS = {
    "Accelerometer1RMS": ("acceleration_rms", "g", "pump_1"),
    "Accelerometer2RMS": ("acceleration_rms", "g", "pump_2"),
    "Current": ("current", "A", ""),
    "Temperature": ("temperature", "degC", "engine"),
    "Thermocouple": ("temperature", "degC", "water"),
    "Pressure": ("oil_pressure", "bar", ""),
    "Volume Flow RateRMS": ("load", "1", ""),
}
"""Columns of a SKAB run as channels; the product has no quantity for the motor's voltage."""


def open_archive(data: Path, name: str) -> zipfile.ZipFile:
    """Open one of the archives.

    Raises
    ------
    BadInput
        It is not in the folder, or no archive.
    """
    try:
        return zipfile.ZipFile(data / name)
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"data: {name} is not in {data}") from None
    except zipfile.BadZipFile:
        raise BadInput(f"data: {data / name} is not a zip archive") from None


def write_skab(archive: zipfile.ZipFile, folder: Path) -> dict[str, npt.NDArray[np.bool_]]:
    """Write the labelled runs as gates, one a run; return of each whether a row is anomalous, in the order of its readings."""
    anomalous = {}
    channels = [
        {"gate_id": "*", "component": COMPONENT, "point": point, "quantity": quantity, "unit": unit}
        for quantity, unit, point in SKAB_CHANNELS.values()
    ]
    keys = {name: f"{COMPONENT}.{point}.{quantity}".replace("..", ".") for name, (quantity, _, point) in SKAB_CHANNELS.items()}
    runs = {}
    for member in _members(archive, ".csv"):
        run = PurePosixPath(member)
        if run.parent.name == "anomaly-free":
            continue
        table = pd.read_csv(io.BytesIO(archive.read(member)), sep=";")
        gate_id = f"{run.parent.name}-{run.stem}"
        frame = pd.DataFrame({"ts": pd.to_datetime(table["datetime"]).dt.tz_localize("UTC").astype("datetime64[ms, UTC]")})
        for name, key in keys.items():
            frame[key] = table[name].astype(float)
        frame[keys["Volume Flow RateRMS"]] /= SKAB_RATED_FLOW
        runs[gate_id] = frame
        anomalous[gate_id] = table["anomaly"].to_numpy() > 0
    _write(folder, "SKAB v0.9, waico/SKAB", "GPL-3.0", list(runs), channels, [], {})
    for gate_id, frame in runs.items():
        write_readings(folder, gate_id, frame)
    return anomalous


def write_femto(archive: zipfile.ZipFile, folder: Path) -> None:
    """Write the bearings as gates, their snapshots as bursts, stretched: a minute is told as a day, its snapshot as noon's."""
    last: dict[str, datetime] = {}
    for member in _members(archive, ".csv"):
        file = PurePosixPath(member)
        if not file.name.startswith("acc_"):
            continue
        gate_id, number = file.parent.name, int(file.stem.removeprefix("acc_"))
        t = ORIGIN + timedelta(days=(number - 1) / FEMTO_A_MINUTE, hours=12)
        last[gate_id] = max(last.get(gate_id, t), t)
        text = archive.read(member).decode().replace(";", ",")
        snapshot = np.loadtxt(io.StringIO(text), delimiter=",", usecols=(4, 5))
        for point, samples_g in zip(FEMTO_POINTS, snapshot.T, strict=True):
            _write_burst(folder, gate_id, point, t, samples_g, FEMTO_RATE_HZ)
    components = [PRONOSTIA.row(gate_id, FEMTO_RPM[gate_id.removeprefix("Bearing")[0]]) for gate_id in last]
    ends = {gate_id: t + timedelta(days=1 / FEMTO_A_MINUTE) for gate_id, t in last.items()}
    source = "FEMTO/PRONOSTIA learning set (PHM 2012), Nectoux et al. 2012; a minute is told as a day"
    _write(folder, source, "none stated", list(last), _burst_channels(*FEMTO_POINTS), components, ends)


@dataclass(frozen=True, slots=True)
class ImsSet:
    """One of the IMS runs: its files, which bearing failed, and how many of its last snapshots are of a rig at rest."""

    table: str
    failed: int
    at_rest: int
    raw: str = ""

    @property
    def name(self) -> str:
        """``set2`` or ``set3``."""
        return f"set{PurePosixPath(self.table).stem[-1]}"

    def gate_id(self, bearing: int) -> str:
        """What a bearing (1 to 4) of the set is called here."""
        return f"{self.name}-bearing{bearing}"


IMS_SETS = (
    ImsSet("ims/snapshot_means_tianyushou/merged_dataset_BearingTest_2.csv", 1, 2, "ims/raw_set2_GBrelurut/2nd_test/2nd_test/"),
    ImsSet("ims/snapshot_means_tianyushou/merged_dataset_BearingTest_3.csv", 3, 1),
)


def write_ims(archive: zipfile.ZipFile, folder: Path, of: ImsSet, stretch: int) -> None:
    """Write the bearings of one set as gates, an hour told as `stretch` hours.

    The mean absolute acceleration of each snapshot is told as ``acceleration_rms``: for a given shape of signal the two are
    proportional, and deviations are ratios to the bearing's own past.
    """
    table = pd.read_csv(io.BytesIO(archive.read(of.table)), index_col=0, parse_dates=True).iloc[: -of.at_rest]
    began = pd.Timestamp(table.index[0])
    gate_ids = [of.gate_id(bearing) for bearing in range(1, 5)]
    channels = [{"gate_id": "*", "component": COMPONENT, "quantity": "acceleration_rms", "unit": "g"}]
    ends = {of.gate_id(of.failed): stretched(pd.Timestamp(table.index[-1]) - began, stretch)}
    components = [REXNORD.row(gate_id, IMS_RPM) for gate_id in gate_ids]
    _write(folder, "NASA IMS bearings", "public; mirrors state none", gate_ids, channels, components, ends)
    ts = pd.Series([stretched(pd.Timestamp(at) - began, stretch) for at in table.index]).astype("datetime64[ms, UTC]")
    for bearing, gate_id in enumerate(gate_ids, start=1):
        values = table[f"Bearing {bearing}"].to_numpy(dtype=float)
        write_readings(folder, gate_id, pd.DataFrame({"ts": ts, f"{COMPONENT}.acceleration_rms": values}))


def write_ims_raw(archive: zipfile.ZipFile, folder: Path, of: ImsSet, stretch: int) -> None:
    """Write the raw snapshots of one set as bursts, an hour told as `stretch` hours."""
    members = [member for member in _members(archive, "") if member.startswith(of.raw) and not member.endswith("/")]
    names = sorted(PurePosixPath(member).name for member in members)
    began = _ims_time(names[0])
    gate_ids = [of.gate_id(bearing) for bearing in range(1, 5)]
    for name in names:
        snapshot = np.loadtxt(io.BytesIO(archive.read(of.raw + name)))
        t = stretched(pd.Timestamp(_ims_time(name)) - pd.Timestamp(began), stretch)
        for gate_id, samples_g in zip(gate_ids, snapshot.T, strict=True):
            _write_burst(folder, gate_id, BEARING, t, samples_g, IMS_RATE_HZ)
    components = [REXNORD.row(gate_id, IMS_RPM) for gate_id in gate_ids]
    ends = {of.gate_id(of.failed): t}
    channels = _burst_channels(BEARING, more=("velocity_rms",))
    _write(folder, "NASA IMS bearings, raw snapshots", "public; mirrors state none", gate_ids, channels, components, ends)


def stretched(since: timedelta, stretch: int) -> datetime:
    """When something that came so long after the start is told to have come."""
    return ORIGIN + since * stretch


def _ims_time(name: str) -> datetime:
    return datetime.strptime(name, "%Y.%m.%d.%H.%M.%S").replace(tzinfo=UTC)


def _members(archive: zipfile.ZipFile, ending: str) -> Iterator[str]:
    return (name for name in sorted(archive.namelist()) if name.endswith(ending))


def _burst_channels(*points: str, more: Sequence[str] = ()) -> list[dict[str, str]]:
    return [
        {"gate_id": "*", "component": COMPONENT, "point": point, "quantity": quantity, "unit": _unit(quantity)}
        for point in points
        for quantity in (*FROM_BURST, *more)
    ]


def _unit(quantity: str) -> str:
    return "mm/s" if quantity == "velocity_rms" else _UNITS.get(quantity, "g")


def _write_burst(folder: Path, gate_id: str, point: str, t: datetime, samples_g: Floats, rate_hz: float) -> None:
    burst = to_burst(samples_g, t, point, axis="", rate_hz=rate_hz)
    file = folder / burst_path(gate_id, COMPONENT, point, burst.t)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode(burst))


def _write(
    folder: Path,
    source: str,
    licence: str,
    gate_ids: Sequence[str],
    channels: Sequence[dict[str, str]],
    components: Sequence[dict[str, object]],
    failed_at: dict[str, datetime],
) -> None:
    maintenance = [
        {"gate_id": gate_id, "component": COMPONENT, "kind": "failure", "started_at": pd.Timestamp(at), "ended_at": pd.NaT}
        for gate_id, at in failed_at.items()
    ]
    write_tables(
        folder,
        source=source,
        licence=licence,
        gates=pd.DataFrame({"gate_id": list(gate_ids), "station_id": "rig"}),
        components=pd.DataFrame(components, columns=["gate_id", "component"] if not components else None),
        channels=pd.DataFrame(channels),
        maintenance=pd.DataFrame(maintenance, columns=["gate_id", "component", "kind", "started_at", "ended_at"]),
    )
