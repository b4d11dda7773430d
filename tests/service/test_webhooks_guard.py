"""Where webhooks may go: addresses, URLs, names that change their address, and the many spellings of loopback."""

import asyncio
import ipaddress
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpcore
import httpx
import pytest

from service.webhooks.guard import AddressNotAllowed, Guard, GuardedBackend, UrlNotAllowed, check_url, guarded_client

# addresses of the public internet; then one or two of each block that is not
OPEN = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0"]
OPEN += ["192.0.1.0", "192.167.255.255", "198.17.255.255", "198.20.0.0", "223.255.255.255", "11.0.0.0", "128.0.0.1"]
OPEN += ["2606:4700:4700::1111", "2400:cb00::1", "2a00:1450:4001:80b::200e", "::ffff:8.8.8.8", "2003::1", "64:ff9c::1"]
SHUT = ["0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255"]
SHUT += ["127.0.0.1", "127.255.255.255", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.255"]
SHUT += ["192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"]
SHUT += ["224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1"]
SHUT += ["::ffff:10.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:a00:1::1"]
SHUT += ["3fff::1", "5f00::1", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1", "ff02::1", "not an address", ""]

LOOPBACK = ["127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "017700000001", "0x7f.0.0.1"]
LOOPBACK += ["0", "0.0.0.0", "localhost", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::7f00:1]"]


@pytest.mark.parametrize("address", OPEN)
def test_the_public_internet_is_reachable(address: str) -> None:
    assert Guard().allows(address)


@pytest.mark.parametrize("address", SHUT)
def test_what_is_not_the_public_internet_is_not_reachable(address: str) -> None:
    assert not Guard().allows(address)


def test_an_allowed_network_opens_itself_and_never_the_link_or_this_machine() -> None:
    guard = Guard(allow_cidrs=(ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")))
    greedy = Guard(allow_cidrs=(ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")))

    assert [guard.allows(a) for a in ("10.1.2.3", "10.2.0.1", "fd00::1", "::ffff:10.1.2.3")] == [True, False, True, True]
    assert greedy.allows("192.168.1.1")
    refused = ["169.254.169.254", "127.0.0.1", "0.0.0.0", "::1", "::", "fe80::1", "::7f00:1", "224.0.0.1"]
    assert not any(greedy.allows(address) for address in refused)


def test_loopback_has_a_flag_of_its_own_that_opens_nothing_else() -> None:
    guard = Guard(allow_loopback=True)

    assert [guard.allows(a) for a in ("127.0.0.1", "::1", "::ffff:127.0.0.1")] == [True, True, True]
    assert not any(guard.allows(a) for a in ("0.0.0.0", "10.0.0.1", "169.254.169.254", "::7f00:1"))


@pytest.mark.parametrize(
    "url",
    [
        "http://receiver.example/",
        "ftp://receiver.example/",
        "//receiver.example/",
        "receiver.example",
        "https:///path",
        "https://",
        "",
        "https://user@receiver.example/",
        "https://user:secret@receiver.example/",
        "https://receiver.example/#part",
        "https://receiver.example:22/",
        "https://receiver.example:80/",
        "https://receiver.example:99999/",
        "https://10.0.0.1/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://receiver.example/a b",
        "https://receiver.example/\r\nx: y",
        "https://good.example\\@evil.example/",
        "javascript:alert(1)",
        "https://receiver.example/" + "x" * 2048,
    ],
)
def test_urls_that_cannot_be_a_webhook_are_refused(url: str) -> None:
    with pytest.raises(UrlNotAllowed, match="webhook url"):
        check_url(url, Guard())


@pytest.mark.parametrize(
    ("url", "called"),
    [
        ("https://receiver.example/hook?a=1", "https://receiver.example/hook?a=1"),
        ("https://receiver.example:8443/", "https://receiver.example:8443/"),
        ("HTTPS://Receiver.Example/", "https://receiver.example/"),
        ("https://münchen.example/", "https://xn--mnchen-3ya.example/"),
        ("https://receiver.中国/", "https://receiver.xn--fiqs8s/"),
    ],
)
def test_allowed_urls_are_brought_to_the_form_in_which_they_are_called(url: str, called: str) -> None:
    assert check_url(url, Guard()) == called


def test_http_and_other_ports_are_for_those_who_ask_for_them() -> None:
    guard = Guard(allow_http=True, allow_loopback=True, ports=())

    assert check_url("http://127.0.0.1:9000/hook", guard) == "http://127.0.0.1:9000/hook"


class Opener(httpcore.AsyncNetworkBackend):
    """Notes where it is asked to connect to, and connects nowhere."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    async def connect_tcp(self, host: str, *_: object, **__: object) -> httpcore.AsyncNetworkStream:
        self.opened.append(host)
        return httpcore.AsyncMockStream([])


def test_a_name_that_changes_its_address_never_leads_to_loopback() -> None:
    opener = Opener()
    asked = 0

    async def rebinding(host: str, port: int) -> Sequence[str]:
        nonlocal asked
        asked += 1
        return ["93.184.216.34"] if asked % 2 else ["127.0.0.1"]

    async def call(times: int) -> int:
        backend = GuardedBackend(Guard(), rebinding, opener)
        refused = 0
        for _ in range(times):
            try:
                await backend.connect_tcp("rebinding.example", 443)
            except AddressNotAllowed:
                refused += 1
        return refused

    refused = asyncio.run(call(1000))

    assert refused == 500
    assert set(opener.opened) == {"93.184.216.34"}


def test_one_blocked_address_among_several_refuses_the_name() -> None:
    opener = Opener()

    async def mixed(host: str, port: int) -> Sequence[str]:
        return ["93.184.216.34", "10.0.0.1"]

    with pytest.raises(AddressNotAllowed):
        asyncio.run(GuardedBackend(Guard(), mixed, opener).connect_tcp("mixed.example", 443))

    assert opener.opened == []


def test_a_name_without_an_address_is_no_answer() -> None:
    async def nothing(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    with pytest.raises(httpcore.ConnectError):
        asyncio.run(GuardedBackend(Guard(), nothing, Opener()).connect_tcp("nowhere.example", 443))


def test_socket_files_are_never_opened() -> None:
    with pytest.raises(AddressNotAllowed):
        asyncio.run(GuardedBackend(Guard()).connect_unix_socket("/run/docker.sock"))


@pytest.fixture
def local_port() -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(302 if self.path == "/away" else 200)
            self.send_header("Location", "http://169.254.169.254/")
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"here")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives it
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def post(url: str, guard: Guard) -> httpx.Response:
    async def call() -> httpx.Response:
        async with guarded_client(guard) as client:
            return await client.post(url, content=b"{}")

    return asyncio.run(call())


@pytest.mark.parametrize("host", LOOPBACK)
def test_no_spelling_of_loopback_reaches_it(host: str, local_port: int) -> None:
    with pytest.raises((AddressNotAllowed, httpx.ConnectError, httpx.InvalidURL)):
        post(f"http://{host}:{local_port}/", Guard())


def test_an_allowed_receiver_is_reached_and_its_redirect_not_followed(local_port: int) -> None:
    guard = Guard(allow_loopback=True)

    assert post(f"http://localhost:{local_port}/", guard).text == "here"
    assert post(f"http://127.0.0.1:{local_port}/away", guard).status_code == 302


def test_a_proxy_of_the_environment_is_not_used(local_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    assert post(f"http://127.0.0.1:{local_port}/", Guard(allow_loopback=True)).text == "here"


def test_a_closed_port_is_said_in_the_words_of_httpx(local_port: int) -> None:
    with pytest.raises(httpx.ConnectError):
        post("http://127.0.0.1:1/", Guard(allow_loopback=True))
