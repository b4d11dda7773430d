"""Where a webhook may be sent: which URLs, and which addresses their names may lead to.

Whoever may add a URL could make our server call inside the operator's network. Looking at the text of a URL is useless
against that (``127.1``, ``0x7f000001`` and a name that changes its address all reach loopback), so the check is made where
the connection is: `GuardedBackend` resolves at every attempt, refuses when any answer is blocked and connects to the very
address that it checked. The block list is our own; `ipaddress.is_global` calls multicast and NAT64 global.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import httpcore
import httpx

from pipeline.errors import BadInput, SluicewatchError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_URL = 2048
PORTS = (443, 8443)

# fmt: off
_BLOCKED = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4",
    "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
    "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
]
_NEVER = [
    "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/96", "fe80::/10", "ff00::/8",
]
# fmt: on
BLOCKED: tuple[Network, ...] = tuple(ipaddress.ip_network(block) for block in _BLOCKED)
"""Addresses that are not of the public internet."""

NEVER: tuple[Network, ...] = tuple(ipaddress.ip_network(block) for block in _NEVER)
"""What `allow_cidrs` does not open: this machine, the link (cloud metadata lives there), multicast, reserved."""


class UrlNotAllowed(BadInput):
    """The URL cannot be a webhook's; the message says what is allowed."""


class AddressNotAllowed(SluicewatchError):
    """The name leads to an address that webhooks may not reach."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What the operator allows beyond the public internet over https.

    Attributes
    ----------
    allow_cidrs : networks of on-premises receivers
    allow_loopback : receivers on this very machine, for the demo and for tests
    allow_http : receivers without TLS
    ports : allowed ports; empty is any
    """

    allow_cidrs: tuple[Network, ...] = ()
    allow_loopback: bool = False
    allow_http: bool = False
    ports: tuple[int, ...] = PORTS

    def allows(self, address: str) -> bool:
        """Whether a connection to this address may be made."""
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        if found.is_loopback:
            return self.allow_loopback
        if _inside(found, NEVER):
            return False
        return _inside(found, self.allow_cidrs) or not _inside(found, BLOCKED)


def _inside(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def check_url(url: str, guard: Guard) -> str:
    """The URL as it will be called (its host in ASCII), when its text is allowed; addresses are checked at each attempt.

    Raises
    ------
    UrlNotAllowed
        Wrong scheme, port, length, a user name or a fragment in it, no host, or an address that may not be reached.
    """
    if len(url) > MAX_URL:
        raise UrlNotAllowed(f"webhook url: allowed are {MAX_URL} characters; got {len(url)}")
    if not url.isprintable() or " " in url or "\\" in url:
        raise UrlNotAllowed("webhook url: blanks, control characters and backslashes are not allowed")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise UrlNotAllowed(f"webhook url: cannot be read ({error})") from None
    schemes = ("https", "http") if guard.allow_http else ("https",)
    if parsed.scheme not in schemes:
        raise UrlNotAllowed(f"webhook url: allowed is {' or '.join(schemes)}; got {parsed.scheme or 'none'}")
    if not parsed.host:
        raise UrlNotAllowed("webhook url: it names no host")
    if parsed.userinfo:
        raise UrlNotAllowed("webhook url: a user name or password in it is not allowed")
    if parsed.fragment:
        raise UrlNotAllowed("webhook url: a fragment (#…) in it is not allowed")
    port = parsed.port or {"https": 443, "http": 80}[parsed.scheme]
    if guard.ports and port not in guard.ports:
        raise UrlNotAllowed(f"webhook url: allowed ports are {', '.join(map(str, guard.ports))}; got {port}")
    if _is_address(parsed.host) and not guard.allows(parsed.host):
        raise UrlNotAllowed("webhook url: address not allowed")
    return str(parsed)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def resolve(host: str, port: int) -> list[str]:
    """Every address the system's resolver gives for a name, in its order of preference."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections only to addresses that the guard allows, and only to the very address that was checked."""

    def __init__(self, guard: Guard, resolver: Resolve = resolve, opener: httpcore.AsyncNetworkBackend | None = None):
        self._guard = guard
        self._resolve = resolver
        self._opener = opener or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first checked address of `host`."""
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("the name has no address") from error
        if not addresses:
            raise httpcore.ConnectError("the name has no address")
        if not all(self._guard.allows(address) for address in addresses):
            raise AddressNotAllowed("address not allowed")
        return await self._opener.connect_tcp(addresses[0], port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Never: a webhook has no business on a socket file."""
        raise AddressNotAllowed("address not allowed")

    async def sleep(self, seconds: float) -> None:
        """Wait, as httpcore asks between its own connection attempts."""
        await asyncio.sleep(seconds)


class GuardedTransport(httpx.AsyncBaseTransport):
    """httpx over httpcore with a `GuardedBackend`; each request has a connection, and so a check, of its own."""

    def __init__(self, guard: Guard, resolver: Resolve = resolve) -> None:
        tls = httpx.create_ssl_context(trust_env=False)
        tls.load_default_certs()  # beside the public ones, what the operator's machine trusts
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=GuardedBackend(guard, resolver),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; redirects and retries are the caller's business."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        with _httpx_words():
            answer = await self._pool.handle_async_request(
                httpcore.Request(
                    request.method,
                    url,
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Stream(answer), extensions=answer.extensions)

    async def aclose(self) -> None:
        """Close what is open."""
        await self._pool.aclose()


class _Stream(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _httpx_words():
            async for part in self._answer.aiter_stream():
                yield part

    async def aclose(self) -> None:
        await self._answer.aclose()


@contextmanager
def _httpx_words() -> Iterator[None]:
    """Say httpcore's errors in httpx's words, so that callers need to know one library only."""
    try:
        yield
    except httpcore.TimeoutException as error:
        raise httpx.ReadTimeout(str(error)) from error
    except httpcore.ConnectError as error:
        raise httpx.ConnectError(str(error)) from error
    except httpcore.NetworkError as error:
        raise httpx.ReadError(str(error)) from error
    except (httpcore.ProtocolError, httpcore.ProxyError, httpcore.UnsupportedProtocol) as error:
        raise httpx.RemoteProtocolError(str(error)) from error


def guarded_client(guard: Guard, resolver: Resolve = resolve) -> httpx.AsyncClient:
    """The only client that webhooks are sent with: no redirects, no proxy from the environment, addresses guarded."""
    return httpx.AsyncClient(
        transport=GuardedTransport(guard, resolver),
        follow_redirects=False,
        trust_env=False,
        headers={"user-agent": "sluicewatch"},
    )
