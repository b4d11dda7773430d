"""One subscriber's connection to an MQTT broker: receive, and acknowledge when told to.

It keeps no thread and no clock of the world: whoever owns it calls `Subscription.turn` again and again, and nothing is
read in between, which is the back-pressure. Only public methods of paho are called; one private method is overridden to
buffer the socket, and where a later paho does not call it any more, everything works as before, only slower.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from pipeline import waveforms
from pipeline.adapters import Message, native
from pipeline.errors import BadInput

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike

KEPT_BYTES = waveforms.MAX_BYTES + 1
"""Of a longer message only the beginning is kept in memory: one byte above the limit suffices to refuse it."""
CONNECT_S = 10.0
CLOSE_S = 5.0
LINGER_S = 1.0
_SLICE_S = 0.25


class BrokerError(BadInput):
    """The broker cannot be reached, refuses us, or is gone."""


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """Where messages come from, how many are held at once, and what is allowed.

    With `allow_discovery` devices register by themselves. Of a component `most_a_minute` readings are taken in one minute of its
    own time; 0 is any number.

    `client_id` must be this process's own: the broker keeps a session by it. `receive_maximum` (how many unacknowledged
    messages the broker may hand out) and `session_expiry_s` count with MQTT 5 only; `ca_file` (whose word we take for the
    broker), `certificate_file` and `key_file` (who we are) with ``mqtts://`` only. Without `keep_session` the broker forgets
    us when we go. `sparkplug_rebirth` allows the one thing we ever publish: to ask Sparkplug's edge nodes for their births.
    Raw vibration bursts are kept in `bursts_folder` for `bursts_days`; nowhere without one.
    """

    mqtt_url: str
    client_id: str = "sluicewatch-ingest"
    version: Literal["3.1.1", "5"] = "3.1.1"
    most_messages: int = 5_000
    most_bytes: int = 2_097_152
    receive_maximum: int = 1_000
    session_expiry_s: int = 604_800
    keepalive_s: int = 30
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    keep_session: bool = True
    sparkplug_rebirth: bool = False
    allow_discovery: bool = False
    most_a_minute: int = 0
    bursts_folder: Path | None = None
    bursts_days: int = 30


class _BufferedSocket:
    """A non-blocking socket that receives much at once and sends only at `flush`.

    paho reads a packet in three or four calls and writes each acknowledgement in one; a system call for each is half of
    its time.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = b""
        self._at = 0
        self._unsent = bytearray()
        self.alert = ""
        """What the other side had against our certificate."""

    def recv(self, buffer_size: int) -> bytes:
        if self._at == len(self._received):
            self._received, self._at = b"", 0  # recv raises when there is nothing, and must not find the old bytes again
            try:
                self._received = self._sock.recv(65_536)
            except ssl.SSLError as error:  # since TLS 1.3 it comes after the handshake, and paho keeps it to itself
                self.alert = _certificate_alert(error)
                raise
        chunk = self._received[self._at : self._at + buffer_size]
        self._at += len(chunk)
        return chunk

    def send(self, buffer: bytes | bytearray) -> int:
        self._unsent += buffer
        return len(buffer)

    def flush(self) -> None:
        """Send as much as the socket takes now."""
        while self._unsent:
            try:
                sent = self._sock.send(self._unsent)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            del self._unsent[:sent]

    def pending(self) -> int:
        """How many bytes can be read without the socket becoming readable."""
        below = self._sock.pending() if hasattr(self._sock, "pending") else 0
        return len(self._received) - self._at + int(below)

    def certificate(self) -> dict[str, Any]:
        """What the other side showed; nothing without TLS."""
        return (self._sock.getpeercert() or {}) if isinstance(self._sock, ssl.SSLSocket) else {}

    def unsent(self) -> int:
        """How many bytes wait for the socket to take them."""
        return len(self._unsent)

    def close(self) -> None:
        """Send what waits, then wait for the other side to close: with unread bytes left, TCP would cancel what we sent."""
        deadline = time.monotonic() + LINGER_S
        with suppress(OSError):
            self.flush()
            self._sock.shutdown(socket.SHUT_WR)
            while (left_s := deadline - time.monotonic()) > 0:
                readable, _, _ = select.select([self._sock], [], [], left_s)
                if readable and not self._sock.recv(65_536):
                    break
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        self._sock.setblocking(flag)


def _certificate_alert(error: ssl.SSLError) -> str:
    reason = str(error.reason or "")
    if "ALERT" not in reason or not ("CERT" in reason or "CA" in reason):
        return ""
    words = reason.partition("ALERT_")[2].replace("_", " ").lower()
    return f"{_REFUSES}: {words}"


_REFUSES = "it refuses our certificate, or that we show none (--mqtt-certificate, --mqtt-key)"
_HUNG_UP = f"it hung up before it answered; perhaps {_REFUSES}"


class _Client(mqtt.Client):
    buffered: _BufferedSocket | None = None

    def _create_socket(self) -> SocketLike:
        self.buffered = _BufferedSocket(cast(socket.socket, super()._create_socket()))
        return self.buffered


class Subscription:
    """One connection to the broker, from CONNECT to its end; no acknowledgement can reach another connection.

    Parameters
    ----------
    settings : IngestSettings
    filters, unwanted : sequence of str
        What to subscribe to; what an earlier subscriber may have left in the session and nobody wants any more.

    Attributes
    ----------
    inbox : list of Message
        Received and not yet acknowledged, in arrival order. `turn` stops reading when it is full.
    packet_ids : list of int
        Of each message in the inbox; 0 for one of QoS 0, which has none.
    subscribed : bool
        Whether the broker has granted the subscription.
    """

    def __init__(self, settings: IngestSettings, filters: Sequence[str] = native.FILTERS, unwanted: Sequence[str] = ()) -> None:
        self._filters, self._unwanted = filters, unwanted
        self.inbox: list[Message] = []
        self.packet_ids: list[int] = []
        self.subscribed = False
        self._inbox_bytes = 0
        self._settings = settings
        self._accepted = False
        self._fault = ""
        self._address = parse_mqtt_url(settings.mqtt_url)
        self._client = self._make_client()

    def _make_client(self) -> _Client:
        mqtt5 = self._settings.version == "5"
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._settings.client_id,
            clean_session=None if mqtt5 else not self._settings.keep_session,
            protocol=MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311,
            manual_ack=True,
        )
        if self._address.user is not None:
            client.username_pw_set(self._address.user, self._address.password)
        if self._address.tls:
            client.tls_set_context(_tls_context(self._settings))
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        # with this set, paho queues what it has to send, and `_write` sends all of it at once
        client.on_socket_register_write = lambda client, userdata, sock: None
        return client

    @property
    def full(self) -> bool:
        """Whether the inbox should be stored before more is read."""
        return len(self.inbox) >= self._settings.most_messages or self._inbox_bytes >= self._settings.most_bytes

    @property
    def certificate_ends(self) -> datetime | None:
        """When the certificate that the broker showed us ends; None without TLS."""
        shown = self._client.buffered.certificate() if self._client.buffered is not None else {}
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC) if shown else None

    def open(self) -> None:
        """Connect and subscribe; the broker may send what it kept for us at once."""
        settings, address = self._settings, self._address
        options: dict[str, Any] = {}
        if settings.version == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
            properties.SessionExpiryInterval = settings.session_expiry_s if settings.keep_session else 0
            properties.ReceiveMaximum = settings.receive_maximum
            options = {"clean_start": not settings.keep_session, "properties": properties}
        try:
            self._client.connect(address.host, address.port, settings.keepalive_s, **options)
        except ssl.SSLCertVerificationError as error:
            raise BrokerError(
                f"mqtt: {address} shows a certificate we do not trust: {error.verify_message.rstrip('.')}; "
                "trusted are the authority of --mqtt-ca (else this machine's) and the name in the address"
            ) from None
        except OSError as error:
            alert = _certificate_alert(error) if isinstance(error, ssl.SSLError) else ""
            why = alert and f"{address}: {alert}"
            raise BrokerError(f"mqtt: {why or f'cannot reach {address}; {error.strerror or error}'}") from None
        deadline = time.monotonic() + CONNECT_S
        while not self._accepted:
            if time.monotonic() > deadline:
                raise BrokerError(f"mqtt: {address} did not answer within {CONNECT_S:.0f} s")
            self.turn(_SLICE_S)
        if settings.version == "5":
            code, _ = self._client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in self._filters])
        else:
            code, _ = self._client.subscribe([(topic, 1) for topic in self._filters])
        self._check(code)
        if self._unwanted:
            code, _ = self._client.unsubscribe(list(self._unwanted))
            self._check(code)

    def turn(self, wait_s: float) -> bool:
        """Wait for the socket, then read what is there, at most until the inbox is full, and write what waits.

        Returns
        -------
        bool
            Whether the broker sent anything.

        Raises
        ------
        BrokerError
            The connection is gone.
        """
        client = self._client
        sock = client.socket()
        if sock is None or self._fault:
            raise BrokerError(f"mqtt: {self._address}: {self._fault or 'the connection is gone'}")
        buffered = sock.pending() if isinstance(sock, _BufferedSocket) else 0
        readable, writable, _ = select.select([sock], [sock] if self._unsent() else [], [], 0.0 if buffered else wait_s)
        if readable or buffered:
            before = -1
            while before < len(self.inbox) and not self.full:
                before = len(self.inbox)
                self._check(client.loop_read())  # one packet; where nothing can be read, no message comes
        self._check(client.loop_misc())
        if writable:
            self._write()
        return bool(readable or writable or buffered)

    def acknowledge(self) -> None:
        """Acknowledge the whole inbox in arrival order and empty it."""
        packet_ids, self.packet_ids = self.packet_ids, []
        self.inbox, self._inbox_bytes = [], 0
        for packet_id in packet_ids:
            if packet_id:
                self._client.ack(packet_id, 1)
        self._write()

    def publish(self, topic: str, payload: bytes) -> None:
        """Send one message with QoS 0: nobody acknowledges it."""
        self._client.publish(topic, payload)
        self._write()

    def close(self) -> None:
        """Send what waits and say goodbye, if anyone listens; the broker keeps the session."""
        client = self._client
        client.on_disconnect = None
        deadline = time.monotonic() + CLOSE_S
        try:
            while self._unsent() and (sock := client.socket()) is not None and time.monotonic() < deadline:
                select.select([], [sock], [], _SLICE_S)
                self._write()
            client.disconnect()
            client.loop_write()
        except BrokerError:
            pass  # gone already
        sock = client.socket()
        if sock is not None:
            sock.close()

    def _unsent(self) -> bool:
        sock = self._client.socket()
        return self._client.want_write() or (isinstance(sock, _BufferedSocket) and sock.unsent() > 0)

    def _write(self) -> None:
        self._check(self._client.loop_write())
        sock = self._client.socket()
        if isinstance(sock, _BufferedSocket):
            try:
                sock.flush()
            except OSError as error:
                with suppress(OSError):
                    sock.recv(1)  # what the broker said before it hung up
                hung_up = _HUNG_UP if isinstance(error, ssl.SSLEOFError) and not self._accepted else ""
                raise BrokerError(f"mqtt: {self._address}: {sock.alert or hung_up or error.strerror or error}") from None

    def _check(self, code: MQTTErrorCode) -> None:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise BrokerError(f"mqtt: {self._address}: {self._fault or mqtt.error_string(code)}")

    def _on_connect(self, client: mqtt.Client, userdata: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self._fault = f"it refuses us: {reason}"
        else:
            self._accepted = True

    def _on_subscribe(
        self, client: mqtt.Client, userdata: Any, packet_id: int, reasons: list[ReasonCode], properties: Any
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._fault = f"it refuses the subscription: {', '.join(refused)}"
        else:
            self.subscribed = True

    def _on_disconnect(self, client: mqtt.Client, userdata: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        alert = self._client.buffered.alert if self._client.buffered is not None else ""
        self._fault = self._fault or alert or str(reason)

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError as error:
            topic = error.object.decode(errors="backslashreplace")
        payload = bytes(message.payload[:KEPT_BYTES])
        self.inbox.append(Message(topic, payload, message.retain))
        self.packet_ids.append(message.mid if message.qos else 0)
        self._inbox_bytes += len(payload)


def _tls_context(settings: IngestSettings) -> ssl.SSLContext:
    """TLS 1.2 or newer, the broker's certificate and name verified, our own certificate shown if there is one."""
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # an SSLError is one
        raise BadInput(f"mqtt_ca: {settings.ca_file!r} cannot be used; {error.strerror or error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate_file is not None:
        try:
            context.load_cert_chain(settings.certificate_file, settings.key_file)
        except OSError as error:
            named = f"{settings.certificate_file!r}, {settings.key_file!r}"
            raise BadInput(f"mqtt_certificate, mqtt_key: {named} cannot be used; {error.strerror or error}") from None
    return context


class MqttAddress(NamedTuple):
    """A broker's address; as text it shows no password."""

    host: str
    port: int
    tls: bool
    user: str | None
    password: str | None

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


def parse_mqtt_url(url: str) -> MqttAddress:
    """Take ``mqtt://[user:password@]host[:port]`` (or ``mqtts``) apart.

    Raises
    ------
    BadInput
        It is not of that form.

    Examples
    --------
    >>> str(parse_mqtt_url("mqtts://ingest-1:secret@broker.example"))
    'mqtts://broker.example:8883'
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or port == 0 or parts.path not in ("", "/"):
        shown = url.rpartition("@")[2]  # a password has no place in a log
        raise BadInput(f"mqtt: allowed is mqtt://[user:password@]host[:port], or mqtts for TLS; got {shown!r}")
    tls = parts.scheme == "mqtts"
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return MqttAddress(parts.hostname, port or (8883 if tls else 1883), tls, user, password)
