"""What enters and leaves the API. Enumerations are open: clients must take a value they do not know as such."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from pipeline.dataset import FINDINGS
from service.alerts import MAX_NOTE
from service.api.context import Instant
from service.events import LOCALES

Item = TypeVar("Item")

Probability = Annotated[float, Field(ge=0, le=1)]
Calibration = Literal["calibrated here", "not yet calibrated here"]
Finding = Literal[FINDINGS]  # type: ignore[valid-type]  # the tuple in pipeline.dataset is the one list
Locale = Literal[LOCALES]  # type: ignore[valid-type]  # likewise
MaintenanceKind = Literal["failure", "repair", "replacement", "lubrication", "inspection"]
GateState = Literal["at_risk", "normal", "no_verdict", "stale"]
Note = Annotated[str, StringConstraints(max_length=MAX_NOTE)]
Identifier = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]{1,128}$")]


class Out(BaseModel):
    """A response, or a part of one."""

    model_config = ConfigDict(from_attributes=True)


class In(BaseModel):
    """A request body; a member we do not know is refused, for it may be a misspelt one."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class Page(Out, Generic[Item]):
    """One page of a list; `next` is the cursor of the following one, null on the last."""

    items: list[Item]
    next: str | None = None


class GateOut(Out):
    """A gate and how it stands."""

    gate_id: str
    station_id: str
    name: str | None
    name_zh: str | None
    gate_type: str | None
    hoist_type: str | None
    role: str | None
    criticality: str | None
    travel_m: float | None
    commissioned_on: str | None
    last_seen: Instant | None = Field(description="Event time of the newest reading.")
    connection: str | None = Field(description="`online` or `offline`, as the gate or its will said last; null if neither did.")
    connection_at: Instant | None = Field(description="When that was first heard.")
    state: GateState = Field(description="`no_verdict` and `stale` are not good news: nobody knows.")
    reason: str = Field(description="Why there is no verdict; empty otherwise.")
    data_stale: bool = Field(
        description="Offline, told of by `gate.data_stale`, or silent for 24 hours; a gate at risk stays at risk meanwhile."
    )
    severity: str | None = Field(description="Of its most severe unresolved alert.")
    open_alerts: int
    as_of: Instant | None = Field(description="The day of its newest forecast.")
    p_14d: Probability | None = Field(description="P(failure within 14 days) of the whole gate.")
    calibration: Calibration | None = Field(description="Of the model behind that forecast; null where there is none.")


class StationOut(Out):
    """Where a gate is."""

    station_id: str
    name: str | None
    name_zh: str | None
    basin: str | None
    river: str | None
    river_km: float | None
    downstream_station_id: str | None
    time_zone: str | None
    latitude: float | None
    longitude: float | None


class ComponentOut(Out):
    """A part of a gate, with what its plate says."""

    component: str
    rated_power_kw: float | None
    rated_current_a: float | None
    speed_rpm: float | None
    iso_class: str | None


class ChannelOut(Out):
    """One measured quantity of a gate."""

    key: str = Field(description="`component.quantity` or `component.point.quantity`.")
    component: str
    point: str
    quantity: str
    unit: str
    interval_s: float | None


class GateDetail(GateOut):
    """A gate with its station, components and channels."""

    station: StationOut | None
    components: list[ComponentOut]
    channels: list[ChannelOut]


class LostChannel(Out):
    """A sensor that is not believed."""

    channel: str
    kind: str = Field(description="`stale`, `stuck`, `unit_slip`, `clipping`, `loose_mount`, `drift`, `dropout` or `spikes`.")
    ne107: str = Field(description="The same in the words of NAMUR NE 107: `failure`, `out_of_specification` …")


class ForecastRow(Out):
    """What the model says about one component, or about the gate as a whole (component empty)."""

    component: str
    verdict: Literal["forecast", "no_verdict"]
    reason: str = Field(description="Why there is no verdict; empty otherwise.")
    p_7d: Probability | None
    p_14d: Probability | None
    p_21d: Probability | None
    ttf_p10_d: float | None = Field(description="First day on which the curve reaches 0.1; null beyond 21 days.")
    ttf_p50_d: float | None
    ttf_p90_d: float | None
    failure_mode: str
    failure_mode_share: Probability | None = Field(
        description="How likely that mode is among those known of the component, given that one of them is under way; else null."
    )
    lost_channels: list[LostChannel] = Field(description="Sensors that are not believed; of the gate row all, of a part its own.")
    curve: list[Probability] | None = Field(description="P(failure within 1..21 days), never falling.")


class EvidenceOut(Out):
    """One group of evidence: what it added to the forecast, what it showed against its own baseline, and what peers show."""

    feature: str = Field(
        description="`component.group`; groups are `velocity`, `high`, `acceleration`, `peak`, `impulse`, `temperature`, "
        "`current`, `others` (the gate's other components) and `history` (records, age, duty, data quality)."
    )
    contribution: float = Field(
        description="How much lower the log-odds of `p_14d` were, had the group shown the median of what the model learnt from."
    )
    change: float | None = Field(
        description="Shown against own baseline: a multiple, or kelvin beyond; null for what is not measured."
    )
    change_unit: Literal["x", "K"] | None
    direction: Literal["up", "down"] | None
    peer_low: float | None = Field(
        description="10 % quantile of the same change over gates of this hoist type; null below 5 gates."
    )
    peer_high: float | None = Field(description="90 % quantile.")
    channel: str | None = Field(description="Which value of `summary` in `operations` deviates most; it speaks for its group.")
    value: float | None = Field(
        description="Its mean over days of the means of their operations, geometric; of a temperature `:max` less `:start`, "
        "arithmetic. One odd operation is pulled in."
    )
    baseline: float | None = Field(description="What the own baseline explains of the same operations, at their load.")
    unit: str | None
    since: Instant | None = Field(description="First day whose operations count.")
    as_of: Instant


class ForecastOut(Out):
    """One day's forecast of a gate."""

    gate_id: str
    as_of: Instant = Field(description="Only what happened before this instant was used.")
    model_version: str
    calibration: Calibration
    gate: ForecastRow
    components: list[ForecastRow]
    evidence: list[EvidenceOut] | None = Field(
        description="Of the component asked for, the strongest contribution first, made anew from what is stored now; else null."
    )


class Series(Out):
    """One channel's values in time order: `values`, or `low` and `high` where buckets were asked for."""

    key: str
    unit: str
    ts: list[Instant]
    values: list[float] | None = None
    low: list[float] | None = None
    high: list[float] | None = None


class ReadingsOut(Out):
    """Readings of one gate; `next_from` is the `from` of the following page, null when this one is complete."""

    gate_id: str
    channels: list[Series]
    next_from: Instant | None = None


class OperationOut(Out):
    """One movement of a gate from start to stop."""

    started_at: Instant
    ended_at: Instant
    summary: dict[str, float] = Field(
        description="`minutes`, context such as `load`, and by channel `:mean` and `:high` (its 90 % quantile) or, of a "
        "temperature, `:start` and `:max` over the movement; lone spikes are left out."
    )
    bursts: list[str] = Field([], description="Raw vibration bursts taken in it, as files below the folder that ingest keeps.")


class MaintenanceIn(In):
    """A maintenance record, in the words of maintenance.csv."""

    gate_id: Identifier
    kind: MaintenanceKind
    started_at: Instant
    component: Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]{0,128}$")] = Field(
        "", description="Empty means the whole gate."
    )
    failure_mode: Annotated[str, StringConstraints(pattern="^[a-z0-9_]{0,64}$")] = ""
    ended_at: Instant | None = None
    finding: Finding | None = None
    alert_id: Annotated[str, StringConstraints(max_length=64)] | None = None
    note: Note | None = None


class MaintenanceOut(Out):
    """A maintenance record."""

    maintenance_id: int
    gate_id: str
    component: str
    kind: str
    failure_mode: str | None
    started_at: Instant
    ended_at: Instant | None
    finding: str | None
    alert_id: str | None
    note: str | None
    recorded_at: Instant


class ActionOut(Out):
    """What a crew should do first."""

    code: str
    text_zh: str
    text_en: str


class AlertOut(Out):
    """A case that needs attention: one component of one gate."""

    alert_id: str
    gate_id: str
    component: str
    failure_mode: str
    failure_mode_share: Probability | None = Field(description="As in a forecast.")
    severity: str
    state: str
    opened_at: Instant
    opened_as_of: Instant
    as_of: Instant = Field(description="The day of the forecast behind these numbers.")
    p_7d: Probability
    p_14d: Probability
    curve: list[Probability]
    respond_by: Instant
    confidence: str = Field(description="`calibrated`, or `not_yet_calibrated_here`: by the threshold of its model.")
    evidence: list[dict[str, Any]]
    recommended_action: ActionOut
    model_version: str
    version: int
    acknowledged_by: str | None
    acknowledged_at: Instant | None
    resolved_by: str | None
    resolved_at: Instant | None
    resolution: str | None
    finding: str | None
    note: str | None
    held: bool = Field(description="Nobody has been told: its day is still being scored, or the model is on hold.")


class ResolveIn(In):
    """What the visit found; it is what the model learns from."""

    finding: Finding
    note: Note | None = None


class EndpointIn(In):
    """A receiver of notifications."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    description: Annotated[str, StringConstraints(max_length=200)] = ""
    event_types: list[str] = Field([], max_length=100, description="Which events to send; none means all.")
    locale: Locale = "zh-CN"


class EndpointOut(Out):
    """A receiver; its secret is shown once, when it is made."""

    endpoint_id: str
    url: str
    description: str
    event_types: list[str]
    locale: str
    state: str = Field(description="`unverified` until a signed ping was accepted.")
    created_at: Instant
    verified_at: Instant | None
    last_success_at: Instant | None
    disabled_reason: str | None


class NewEndpointOut(EndpointOut):
    """A receiver just made, with its secret."""

    secret: str = Field(description="Signs every delivery (Standard Webhooks). Keep it: it is not shown again.")


class RotatedSecretOut(Out):
    """A receiver's new secret."""

    endpoint_id: str
    secret: str = Field(description="Signs every delivery from now on. Keep it: it is not shown again.")
    old_secrets_sign_until: Instant = Field(description="Until then deliveries carry a signature of the old secret too.")


class PingOut(Out):
    """A test that was queued."""

    webhook_id: str


class DeliveryOut(Out):
    """One notification on its way to one receiver."""

    webhook_id: str
    event_type: str
    subject: str
    state: str
    attempts: int
    created_at: Instant
    next_attempt_at: Instant | None
    finished_at: Instant | None


class AttemptOut(Out):
    """One try to deliver a notification."""

    attempt: int = Field(description="1 is the first; a replay counts from 1 again.")
    at: Instant
    duration_ms: int
    status: int | None = Field(description="The receiver's HTTP status; null when it gave none.")
    error: str = Field(description="Why it was not delivered; empty when it was.")
    response: str = Field(description="The first 1 KB of the answer as text; bytes that are not text are replaced.")
    next_attempt_at: Instant | None


class LoggedDeliveryOut(DeliveryOut):
    """One notification with what was sent and every try."""

    body: str = Field(description="The body that was signed, the same in every try.")
    log: list[AttemptOut] = Field(description="Every try, oldest first.")


class ReplayIn(In):
    """What to send again: one delivery by its `webhook_id`, or what failed from `since` until before `until`."""

    webhook_id: Identifier | None = None
    since: Instant | None = None
    until: Instant | None = Field(None, description="Now, when it is not given; at most 14 days after `since`.")


class ReplayOut(Out):
    """What a replay brought."""

    queued: int = Field(description="Deliveries that go out again, each under its own webhook-id.")


class QuarantineOut(Out):
    """A message that could not be used."""

    quarantine_id: int
    received_at: Instant
    topic: str
    reason: str
    detail: str
    payload: str = Field(description="Its first 4 KB as text; bytes that are not text are replaced.")


class AlarmRateOut(Out):
    """False alarms of the 365 days before a scored day, against their budget."""

    as_of: Instant
    false_alarms: int = Field(
        description="One per alarm that no failure or finding bore out within 28 days, and per further 28 days open."
    )
    gate_years: float = Field(description="Gate-days with a verdict, without the last 35 days, in years.")
    per_gate_year: float | None = Field(description="Null before anything could be counted.")
    lower_per_gate_year: float = Field(description="90 % lower bound of the true rate.")
    budget_per_gate_year: float
    is_over_budget: bool = Field(description="Proven: the lower bound is above the budget.")


class HoldOut(Out):
    """Why new alerts are shown and nobody is told of them."""

    since: Instant
    as_of: Instant = Field(description="The scored day on which too many gates opened cases.")
    gates: int = Field(description="Gates that opened cases that day.")
    gates_with_verdict: int
    alerts_held: int = Field(description="Alerts that nobody has been told of.")


class ReleaseIn(In):
    """Why a model on hold may speak again."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=MAX_NOTE)]


class ReleaseOut(Out):
    """What became of the alerts that were held."""

    told: int = Field(description="Their notices go out now.")
    dropped: int = Field(description="They were resolved meanwhile; their notices are never sent.")


class ComparedOut(Out):
    """One feature of the fleet's last seven days against what the model learnt from; null where there are too few values."""

    n: int = Field(description="Values, one a gate and day; 500 are needed.")
    psi: float | None = Field(description="Population stability index over ten bins of equal share.")
    psi_usual: float | None = Field(description="99 % of fleets of as many gates have less without drift (block bootstrap).")
    ks: float | None = Field(description="Kolmogorov-Smirnov distance.")
    ks_usual: float | None
    p: float | None
    drifted: bool = Field(description="By Benjamini and Hochberg over all features, at 5 %.")


class DriftOut(Out):
    """Whether what the model is shown still looks like what it learnt from. Nothing is retrained by it."""

    status: Literal["no reference", "not enough data", "in line", "drift"]
    since: Instant | None = Field(description="When the drift under way was noticed; it is over after a week without.")
    as_of: Instant | None = Field(description="The day of the newest comparison.")
    features: dict[str, ComparedOut]
    gates_unlike: list[str] = Field(description="Gates whose last four weeks are unlike any gate's, compared on Mondays.")
    suggests_training: bool = Field(
        description="Drift for three weeks: a person may want to train anew, sensors looked at first."
    )


class ModelOut(Out):
    """A registered model."""

    version: str
    aliases: list[str]
    sha256: str
    created_at: Instant | None
    open_at: float = Field(description="An alert opens when P(failure within 14 days) reaches this on 2 of 3 days.")
    calibration: Calibration
    budget_per_gate_year: float = Field(description="False alarms per gate and year that the threshold was tuned for.")
    alarm_rate: AlarmRateOut | None = Field(description="Achieved here, told with the model that scores now; else null.")
    drift: DriftOut | None = Field(description="Of the model that scores now; else null.")
    on_hold: HoldOut | None = Field(description="While its new alerts are told to nobody; else null.")


class Check(Out):
    """One thing that must be so."""

    status: Literal["pass", "warn", "fail"]
    detail: str


class Readiness(Out):
    """Whether this process can do its work; `warn` does not make it unready."""

    status: Literal["pass", "warn", "fail"]
    checks: dict[str, Check]


class Liveness(Out):
    """This process answers."""

    status: Literal["pass"]
