"""The store: tables and queries for forecasts, cases, alerts, notices, events, endpoints, deliveries, keys and audit.

A file per subject, one name for callers: `from service import store`, then `store.get_alert(...)`. A table is plural
(`store.alerts`), the file about it singular (`service.store.alert`). Nothing here decides anything.
Read with `engine.connect()`, write inside `pipeline.historian.writing(engine)`.
"""

from service.store.alarm_rate import gate_days, last_alarm_rate, load_case_log, log_cases, save_alarm_rate
from service.store.alert import (
    alerts_by_urgency,
    apply_change,
    count_alerts,
    get_alert,
    load_cases,
    save_cases,
    unresolved_alerts,
)
from service.store.audit_trail import append_audit, list_audit
from service.store.delivery import delivery_figures, get_delivery, list_attempts, list_deliveries, replay
from service.store.endpoint import (
    add_endpoint,
    change_endpoint,
    delete_endpoint,
    get_endpoint,
    list_endpoints,
    live_secrets,
    rotate_secret,
)
from service.store.event import ping_endpoint, publish
from service.store.forecast import (
    gates_with_verdict,
    last_scoring_run,
    latest_forecast,
    load_gates,
    save_forecasts,
    save_scoring_run,
    scored_gates,
)
from service.store.key import add_api_key, find_api_key, list_api_keys, revoke_api_key, touch_api_key
from service.store.notice import open_notices, save_notice
from service.store.schema import alembic_config, check_schema, migrate
from service.store.tables import (
    DELIVERY,
    SCORING,
    UNRESOLVED,
    Actor,
    Conflict,
    Json,
    NotFound,
    Row,
    alarm_rates,
    alerts,
    attempts,
    case_log,
    cases,
    deliveries,
    endpoints,
    events,
    forecasts,
    scoring_runs,
)

__all__ = [
    "DELIVERY",
    "SCORING",
    "UNRESOLVED",
    "Actor",
    "Conflict",
    "Json",
    "NotFound",
    "Row",
    "add_api_key",
    "add_endpoint",
    "alarm_rates",
    "alembic_config",
    "alerts",
    "alerts_by_urgency",
    "append_audit",
    "apply_change",
    "attempts",
    "case_log",
    "cases",
    "change_endpoint",
    "check_schema",
    "count_alerts",
    "delete_endpoint",
    "deliveries",
    "delivery_figures",
    "endpoints",
    "events",
    "find_api_key",
    "forecasts",
    "gate_days",
    "gates_with_verdict",
    "get_alert",
    "get_delivery",
    "get_endpoint",
    "last_alarm_rate",
    "last_scoring_run",
    "latest_forecast",
    "list_api_keys",
    "list_attempts",
    "list_audit",
    "list_deliveries",
    "list_endpoints",
    "live_secrets",
    "load_case_log",
    "load_cases",
    "load_gates",
    "log_cases",
    "migrate",
    "open_notices",
    "ping_endpoint",
    "publish",
    "replay",
    "revoke_api_key",
    "rotate_secret",
    "save_alarm_rate",
    "save_cases",
    "save_forecasts",
    "save_notice",
    "save_scoring_run",
    "scored_gates",
    "scoring_runs",
    "touch_api_key",
    "unresolved_alerts",
]
