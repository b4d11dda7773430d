"""The publisher of the ingest bench, a process: a bare socket that sends packets encoded beforehand, so it costs little.

It says ``ready`` when all are encoded, starts when it reads a line, and then says the monotonic second of its start, a
clock that all processes of a machine share. With a rate it keeps to it, and at the end says by how much it was late at most.
"""

from __future__ import annotations

import socket
import sys
import threading
import time

from service.bench.messages import GATES, connect_packet, publish_packets
from service.broker import HOST

IN_FLIGHT = 2_000
"""Messages that may wait for the broker's acknowledgement."""
AT_ONCE = 100
PUBACK_BYTES = CONNACK_BYTES = 4


class Publisher:
    """One connection to the broker."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(connect_packet("bench-publisher"))
        self._socket.recv(CONNACK_BYTES, socket.MSG_WAITALL)
        self._acknowledged_bytes = 0

    def send(self, packets: list[bytes]) -> None:
        """Send all packets; return when the broker has acknowledged each."""
        drain = threading.Thread(target=self._drain, args=(PUBACK_BYTES * len(packets),))
        drain.start()
        for start in range(0, len(packets), AT_ONCE):
            while start - self._acknowledged_bytes // PUBACK_BYTES > IN_FLIGHT:
                if not drain.is_alive():
                    raise ConnectionError("the broker is gone")
                time.sleep(0.0005)
            self._socket.sendall(b"".join(packets[start : start + AT_ONCE]))
        drain.join()

    def send_steadily(self, packets: list[bytes], messages_per_s: float, start_s: float) -> float:
        """Send each packet at its moment; return by how many seconds one went out too late, at most."""
        drain = threading.Thread(target=self._drain, args=(PUBACK_BYTES * len(packets),))
        drain.start()
        latest_s = 0.0
        for number, packet in enumerate(packets):
            early_s = start_s + number / messages_per_s - time.monotonic()
            if early_s > 0:
                time.sleep(early_s)
            self._socket.sendall(packet)
            latest_s = max(latest_s, time.monotonic() - start_s - number / messages_per_s)
        drain.join()
        return latest_s

    def _drain(self, expected_bytes: int) -> None:
        while self._acknowledged_bytes < expected_bytes:
            received = self._socket.recv(65_536)
            if not received:
                return
            self._acknowledged_bytes += len(received)


def main(port: int, messages: int, readings: int, gates: int = GATES, messages_per_s: int = 0, poison_every: int = 0) -> None:
    """Be the process."""
    packets = list(publish_packets(messages, readings, gates, poison_every))
    publisher = Publisher(port)
    _say("ready")
    sys.stdin.readline()
    start_s = time.monotonic()
    _say(f"{start_s}")
    if messages_per_s:
        _say(f"{publisher.send_steadily(packets, messages_per_s, start_s)}")
    else:
        publisher.send(packets)


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
