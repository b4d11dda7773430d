"""The publisher of the ingest bench, a process: a bare socket that sends packets encoded beforehand, so it costs little.

It says ``ready`` when all are encoded, starts when it reads a line, and then says the monotonic second of its start, a
clock that all processes of a machine share.
"""

from __future__ import annotations

import socket
import sys
import threading
import time

from service.bench.messages import connect_packet, publish_packets
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

    def _drain(self, expected_bytes: int) -> None:
        while self._acknowledged_bytes < expected_bytes:
            received = self._socket.recv(65_536)
            if not received:
                return
            self._acknowledged_bytes += len(received)


def main(port: int, messages: int, readings: int) -> None:
    """Be the process."""
    packets = list(publish_packets(messages, readings))
    publisher = Publisher(port)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sys.stdout.write(f"{time.monotonic()}\n")
    sys.stdout.flush()
    publisher.send(packets)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
