"""`sluicewatch demo`: a basin of simulated gates, all the way to a signed webhook, with real parts in processes of their own.

This process is the field (the gateways that publish), the crew (work orders by the API) and the receiver (verifies and
prints webhooks). Only here, and nowhere that trains or scores, is the simulator's truth read: to say which alerts were
right, which were false and which failures were missed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import sqlalchemy as sa
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from models import registry
from pipeline import historian, simulator, transfer
from pipeline.dataset import open_dataset, write_tables
from pipeline.errors import SluicewatchError
from pipeline.simulator.publish import FleetPublisher, fleet_messages
from pipeline.simulator.truth import failures
from service import store
from service.api import auth, keys
from service.broker import free_port, start_broker
from service.processes import Processes
from service.webhooks import standard

GATES, STATIONS = 24, 8
HAZARD_SCALE = 3.0
"""Wear starts three times as often as in the simulator's own fleet, so that a short demo has failures to warn of."""

START = date(2025, 4, 1)
"""First simulated day. Fixed, so that a seed means one and the same demo, and past, so that no event lies in the future."""

TRUE_WITHIN_D = 21
FALSE_AFTER_D = 28
EVALUABLE_AFTER_D = 31
"""An alert is a hit when its gate fails within 21 days, false when it does not within 28."""

LARGEST_FALSE = 2
CATCH_UP_SECONDS = 60.0
STALLED_SECONDS = 5.0


class DemoFailed(SluicewatchError):
    """The demo did not show what it promises."""


@dataclass(slots=True)
class Summary:
    """What the demo did, as printed for scripts."""

    seed: int
    broker: str
    simulated_days: int = 0
    messages_published: int = 0
    messages_acknowledged: int = 0
    messages_stored: int = 0
    readings_published: int = 0
    readings_stored: int = 0
    operations: int = 0
    forecasts: int = 0
    alerts: int = 0
    hits: int = 0
    early: int = 0
    found_by_inspection: int = 0
    false_alerts: int = 0
    misses: int = 0
    deliveries: int = 0
    first_hit: dict[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """How the demo runs; see ``sluicewatch demo --help``."""

    seed: int
    history_days: int
    live_days: int
    seconds_per_day: float
    port: int | None
    exit_when_delivered: bool
    pure_python_broker: bool = False


class Receiver:
    """What an operator would run: takes webhooks, verifies each signature, keeps what was genuine."""

    def __init__(self) -> None:
        self.secret = ""
        self.genuine: list[dict[str, Any]] = []
        self.refused = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(204 if receiver.receive(dict(self.headers.items()), body) else 401)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives it
                """Say nothing; the demo prints what was received."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True).start()

    def receive(self, headers: dict[str, str], body: bytes) -> bool:
        """Verify one delivery; a repeated one (same ``webhook-id``) is accepted and counted once."""
        try:
            standard.verify(self.secret, headers, body, datetime.now(UTC))
        except SluicewatchError:
            self.refused += 1
            return False
        webhook_id = {name.lower(): value for name, value in headers.items()}["webhook-id"]
        if all(known["webhook_id"] != webhook_id for known in self.genuine):
            self.genuine.append({"webhook_id": webhook_id, **json.loads(body)})
        return True

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def run_demo(settings: Settings, console: Console) -> Summary:
    """Run the whole way; return what happened.

    Raises
    ------
    DemoFailed
        With ``exit_when_delivered``: no signed webhook came for a gate that fails within 21 days, or too many were false.
    """
    folder = Path(tempfile.mkdtemp(prefix="sluicewatch-demo-"))
    try:
        with ExitStack() as stack:
            summary = _Demo(settings, console, folder, stack).run()
    except SluicewatchError:
        console.print(f"database and logs of this demo are kept in {folder}")
        raise
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return summary


class _Demo:
    def __init__(self, settings: Settings, console: Console, folder: Path, stack: ExitStack) -> None:
        self.settings, self.console, self.folder, self.stack = settings, console, folder, stack
        self.begun = time.monotonic()
        self.printed = 0
        self.broker = stack.enter_context(start_broker(folder / "broker", kind="amqtt" if settings.pure_python_broker else None))
        self.summary = Summary(seed=settings.seed, broker=self.broker.kind)
        console.print(f"broker: {self.broker.kind} at {self.broker.url}")
        if self.broker.cannot:
            console.print(f"[yellow]what it cannot do:[/] {self.broker.cannot}")

    def run(self) -> Summary:
        with self._timed("simulate"):
            self._simulate()
        with self._timed("start"):
            self._start()
        with self._timed("history"):
            self._replay_history()
        with self._timed("live"):
            self._go_live()
        self._settle()
        self._count()
        self._tell()
        self.summary.seconds["total"] = round(time.monotonic() - self.begun, 1)
        if self.settings.exit_when_delivered:
            self.console.file.flush()
            print(json.dumps(asdict(self.summary), ensure_ascii=False), flush=True)
            self.verdict()
        return self.summary

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.summary.seconds[stage] = round(time.monotonic() - begun, 1)

    def _simulate(self) -> None:
        """Simulate beyond the last day shown, so that the truth about the last alerts is known."""
        shown = self.settings.history_days + self.settings.live_days
        self.fleet = simulator.make_fleet(
            gates=GATES,
            stations=STATIONS,
            days=shown + FALSE_AFTER_D + 1,
            seed=self.settings.seed,
            start=START,
            hazard_scale=HAZARD_SCALE,
            transport_faults=False,  # every reading is to be found in the store, and one with a wrong clock is refused
        )
        histories = [simulator.simulate_gate(self.fleet, gate_id) for gate_id in self.fleet.gate_ids]
        self.end = self.fleet.started_at + timedelta(days=shown)
        self.live_from = self.fleet.started_at + timedelta(days=self.settings.history_days)
        self.readings = {h.gate_id: h.readings[h.readings["ts"] < self.end] for h in histories}
        orders = pd.concat([h.maintenance_table() for h in histories], ignore_index=True)
        # a crew hands in a work order when the work is done
        orders = orders.fillna({"failure_mode": "", "finding": "", "component": ""})
        orders["known_at"] = orders["ended_at"].fillna(orders["started_at"])
        self.work_orders = orders.sort_values(["known_at", "gate_id"], kind="stable").to_dict("records")
        truth = failures(pd.concat([h.truth.to_pandas() for h in histories], ignore_index=True))
        self.failed_at = {str(gate): list(rows["failed_at"]) for gate, rows in truth.groupby("gate_id")}
        found = orders[orders["finding"] == "confirmed_degradation"]
        self.found_at = {str(gate): list(rows["started_at"]) for gate, rows in found.groupby("gate_id")}

    def _start(self) -> None:
        """Make the database, register the fleet, start the four processes and tell them whom to notify."""
        database = f"sqlite:///{self.folder / 'demo.sqlite'}"
        self.engine = historian.connect(database)
        self.stack.callback(self.engine.dispose)
        store.migrate(self.engine)
        tables = self.folder / "fleet"
        write_tables(
            tables,
            source="simulated",
            licence="CC0-1.0",
            stations=self.fleet.stations,
            gates=self.fleet.gates_table(),
            components=self.fleet.components_table(),
            channels=self.fleet.channels_table(),
            maintenance=pd.DataFrame(columns=["gate_id", "kind", "started_at"]),
        )
        with historian.writing(self.engine) as connection:
            transfer.register_fleet(connection, open_dataset(tables, need_readings=False), self.fleet.started_at)
        model = registry.seed(self.folder / "registry")
        self.key = auth.create_key(
            self.engine,
            name="demo",
            scopes=list(keys.SCOPES),
            at=datetime.now(UTC),
            actor=store.Actor("sluicewatch demo", "cli"),
        ).text

        self.receiver = Receiver()
        self.stack.callback(self.receiver.close)
        port = self.settings.port or free_port()
        health = {name: free_port() for name in ("ingest", "score", "deliver")}
        environment = {
            "SLUICEWATCH_DATABASE": database,
            "SLUICEWATCH_REGISTRY": str(self.folder / "registry"),
            "SLUICEWATCH_SECRET_KEY": standard.Vault.new_key().decode(),
            "SLUICEWATCH_CLOCK": "data",
            "SLUICEWATCH_WEBHOOK_ALLOW_HTTP": "1",
            "SLUICEWATCH_WEBHOOK_ALLOW_LOOPBACK": "1",
            "SLUICEWATCH_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "OMP_NUM_THREADS": "1",
        }
        self.processes = self.stack.enter_context(Processes(self.folder))
        self.processes.start("ingest", "--mqtt", self.broker.url, "--health-port", str(health["ingest"]), environment=environment)
        self.processes.start("score", "--every-s", "0.2", "--health-port", str(health["score"]), environment=environment)
        self.processes.start("deliver", "--health-port", str(health["deliver"]), environment=environment)
        self.processes.start("serve", "--port", str(port), environment=environment)
        for at in (port, *health.values()):
            self.processes.wait_until_answers(f"http://127.0.0.1:{at}/livez", 60)
        self.processes.wait_until_answers(f"http://127.0.0.1:{health['ingest']}/readyz", 30)

        self.console_url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.console_url, headers={"Authorization": f"Bearer {self.key}"}, timeout=30)
        self.stack.callback(self.http.close)
        self._register_receiver()
        self.console.print(f"model: {model} (trained on simulated gates)")
        self.console.print(f"console: [link]{self.console_url}[/link]   API reference: {self.console_url}/docs")
        self.console.print(f"key for console and API, valid until the demo ends: {self.key}")

        gateways = fleet_messages(
            self.fleet, self.readings, batch=timedelta(hours=3), live_from=self.live_from, live_batch=timedelta(minutes=15)
        )
        self.publisher = FleetPublisher(gateways)
        self.publisher.connect(self.broker.url)
        self.stack.callback(self.publisher.close)

    def _register_receiver(self) -> None:
        answer = self.http.post("/api/v1/webhooks", json={"url": self.receiver.url, "description": "demo", "locale": "en"})
        if answer.status_code != 201:
            raise DemoFailed(f"the receiver could not be registered: {answer.text}")
        self.receiver.secret = answer.json()["secret"]
        endpoint = answer.json()["endpoint_id"]
        # the first ping may have come before we knew the secret; ask for another until one is accepted
        for _ in range(100):
            states = {item["endpoint_id"]: item["state"] for item in self.http.get("/api/v1/webhooks").json()["items"]}
            if states[endpoint] == "active":
                return
            self.http.post(f"/api/v1/webhooks/{endpoint}/test")
            time.sleep(0.3)
        raise DemoFailed("the receiver's signed ping was not delivered")

    def _replay_history(self) -> None:
        """Publish the past as a gateway does after an outage: fast, with the times at which it happened."""
        days = self.settings.history_days
        columns = (
            TextColumn("history through the broker"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("days"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bar:
            task = bar.add_task("history", total=days)
            for day in range(1, days + 1):
                self._live_through(self.fleet.started_at + timedelta(days=day))
                self._print_received()
                bar.advance(task)
        self.console.print(f"{days} days of history published; now live, a day in {self.settings.seconds_per_day:g} s")

    def _go_live(self) -> None:
        begun = time.monotonic()
        now, told = self.live_from, False
        with Live(console=self.console, auto_refresh=False, transient=True) as status:
            while True:
                self.processes.check()
                self._print_received()
                if self.settings.exit_when_delivered and (self._first_hit() is not None or self._all_scored()):
                    return
                if now == self.end and self._all_scored() and not told:
                    told = True
                    self._count()
                    self._tell()
                    self.console.print("the simulated time is over; console and API stay until Ctrl-C")
                days = (time.monotonic() - begun) / self.settings.seconds_per_day
                target = min(self.live_from + timedelta(days=days), self.end)
                while now < target:
                    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
                    now = min(target, midnight)
                    self._live_through(now, settle=now == midnight)
                status.update(self._status(now), refresh=True)
                time.sleep(0.25)

    def _live_through(self, now: datetime, *, settle: bool = True) -> None:
        """Publish until `now`; at the end of a day wait until all is stored, then hand in the work orders finished by then."""
        self.publisher.publish_until(now - timedelta(milliseconds=1))
        if not settle:
            return
        self._settle()
        while self.work_orders and self.work_orders[0]["known_at"] < now:
            self._hand_in(self.work_orders.pop(0))

    def _settle(self) -> None:
        """Wait until everything published is acknowledged and stored, or until nothing more comes in."""
        self.publisher.wait_acknowledged(CATCH_UP_SECONDS)
        stored, moved_at = -1, time.monotonic()
        while time.monotonic() - moved_at < STALLED_SECONDS:
            now_stored = self._tallies().get("readings_received", 0)
            if now_stored >= self.publisher.rows_acknowledged:
                return
            if now_stored != stored:
                stored, moved_at = now_stored, time.monotonic()
            self.processes.check()
            time.sleep(0.05)

    def _hand_in(self, order: Mapping[Any, Any]) -> None:
        record = {name: order[name] for name in ("gate_id", "component", "kind", "failure_mode", "finding") if order[name]}
        record |= {name: order[name].isoformat() for name in ("started_at", "ended_at") if pd.notna(order[name])}
        answer = self.http.post("/api/v1/maintenance", json=record)
        if answer.status_code != 201:
            raise DemoFailed(f"the API refused a work order: {answer.text}")

    def _tallies(self) -> dict[str, int]:
        with self.engine.connect() as connection:
            return historian.load_tallies(connection)

    def _all_scored(self) -> bool:
        """Whether the last whole day shown has its forecasts; the one after it never gets its hours."""
        with self.engine.connect() as connection:
            return len(store.scored_gates(connection, self.end - timedelta(days=1))) == GATES

    def _judge(self, gate_id: str, as_of: datetime) -> str:
        """What the simulator's truth says of an alert: hit, early, found_by_inspection or false_alert."""

        def within(moments: dict[str, list[Any]], days: int) -> bool:
            return any(as_of < at <= as_of + timedelta(days=days) for at in moments.get(gate_id, []))

        if within(self.failed_at, TRUE_WITHIN_D):
            return "hit"
        if within(self.failed_at, FALSE_AFTER_D):
            return "early"
        return "found_by_inspection" if within(self.found_at, FALSE_AFTER_D) else "false_alert"

    def _opened(self) -> list[dict[str, Any]]:
        """The alerts that a genuine webhook announced, each with its verdict."""
        found = []
        for body in list(self.receiver.genuine):
            if body["type"] == "alert.opened":
                data = body["data"]
                as_of = datetime.fromisoformat(data["as_of"])
                verdict = self._judge(data["gate_id"], as_of)
                failed = [at for at in self.failed_at.get(data["gate_id"], []) if at > as_of]
                lead_d = round((failed[0] - as_of) / timedelta(days=1), 1) if verdict in ("hit", "early") else None
                found.append({**data, "verdict": verdict, "lead_time_d": lead_d})
        return found

    def _first_hit(self) -> dict[str, Any] | None:
        return next((alert for alert in self._opened() if alert["verdict"] == "hit"), None)

    def _print_received(self) -> None:
        opened = self._opened()
        for alert in opened[self.printed :]:
            what = {
                "hit": f"[green]right[/]: it fails {alert['lead_time_d']} days later",
                "early": f"early: it fails {alert['lead_time_d']} days later",
                "found_by_inspection": "an inspection finds the wear",
                "false_alert": "[red]false[/]: it does not fail within 28 days",
            }[alert["verdict"]]
            self.console.print(
                f"webhook, signature verified: {alert['as_of'][:10]} {alert['gate_id']} {alert['component']}, "
                f"{alert['severity']}, {alert['probability']:.0%} within {alert['horizon_days']} days - truth: {what}"
            )
        self.printed = len(opened)

    def _status(self, now: datetime) -> Text:
        with self.engine.connect() as connection:
            open_alerts = sum(store.count_alerts(connection).values())
        return Text(
            f"{now:%Y-%m-%d %H:%M}  readings {self.publisher.rows_acknowledged:,}  open alerts {open_alerts}  "
            f"webhooks {len(self.receiver.genuine)}  console {self.console_url}  (Ctrl-C ends)",
            style="dim",
        )

    def _count(self) -> None:
        summary, verdicts = self.summary, [alert["verdict"] for alert in self._opened()]
        with self.engine.connect() as connection:
            counts = {
                name: connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
                for name, table in {
                    "readings": historian.readings,
                    "operations": historian.operations,
                    "forecasts": store.forecasts,
                    "alerts": store.alerts,
                }.items()
            }
            scored = connection.scalar(sa.select(sa.func.max(store.forecasts.c.as_of)))
        tallies = self._tallies()
        summary.simulated_days = (scored - self.fleet.started_at).days if scored else 0
        summary.messages_published = self.publisher.published
        summary.messages_acknowledged = self.publisher.acknowledged
        summary.messages_stored = tallies.get("messages_stored", 0)
        summary.readings_published = self.publisher.rows_published
        summary.readings_stored = counts["readings"]
        summary.operations, summary.forecasts, summary.alerts = counts["operations"], counts["forecasts"], counts["alerts"]
        summary.hits, summary.early = verdicts.count("hit"), verdicts.count("early")
        summary.found_by_inspection, summary.false_alerts = verdicts.count("found_by_inspection"), verdicts.count("false_alert")
        summary.misses = self._missed(scored)
        summary.deliveries = len(self.receiver.genuine)
        summary.first_hit = self._first_hit()

    def _missed(self, until: datetime | None) -> int:
        """Failures from day 31 on that no alert of the 28 days before had announced."""
        warned = [(alert["gate_id"], datetime.fromisoformat(alert["as_of"])) for alert in self._opened()]
        missed = 0
        for gate_id, moments in self.failed_at.items():
            for at in moments:
                if until is None or not self.fleet.started_at + timedelta(days=EVALUABLE_AFTER_D) <= at <= until:
                    continue
                announced = any(g == gate_id and at - timedelta(days=FALSE_AFTER_D) <= as_of < at for g, as_of in warned)
                missed += not announced
        return missed

    def _tell(self) -> None:
        summary = self.summary
        self.console.print(
            f"against the simulator's truth, {summary.simulated_days} days of {GATES} gates: {summary.hits} hits, "
            f"{summary.early} early, {summary.found_by_inspection} found by inspection, {summary.false_alerts} false alerts, "
            f"{summary.misses} failures missed (sudden and silent ones cannot be seen coming)"
        )

    def verdict(self) -> None:
        """Raise `DemoFailed` unless a signed webhook was right and no more than two other gates had a false alert."""
        hit = self.summary.first_hit
        if hit is None:
            raise DemoFailed("no signed webhook came for a gate that fails within 21 days")
        false_gates = {a["gate_id"] for a in self._opened() if a["verdict"] == "false_alert"} - {hit["gate_id"]}
        if len(false_gates) > LARGEST_FALSE:
            raise DemoFailed(f"false alerts on {len(false_gates)} gates: {', '.join(sorted(false_gates))}")
