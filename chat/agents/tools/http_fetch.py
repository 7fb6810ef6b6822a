"""Reading a page of the web, without lending the agent our place in the network (SSRF).

Every address that a name resolves to is checked by the resolver that the connection itself uses, so that a name cannot
mean one thing when it is checked and another when it is connected to; redirects go through the same gate.
"""

import ipaddress
import socket
from functools import cache
from typing import Annotated, Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from django.conf import settings
from pydantic import Field

from chat.agents.tools.base import ToolError
from chat.agents.tools.decorator import tool

TIMEOUT_SECONDS = 20.0
MAX_BYTES = 1_048_576
MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TEXTS = ("text/", "application/json", "application/xml", "application/xhtml+xml", "application/ld+json")

# NAT64: what a gateway turns into an IPv4 address, which may be a private one.
_TRANSLATED = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ForbiddenAddressError(OSError):
    """The address is not one of the public internet."""


class PublicResolver(AbstractResolver):
    """Resolves names as the system does, and refuses those that lead to where agents have no business."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for each in found:
            check_address(each["host"])  # one forbidden among allowed ones is a trap: refuse the name
        return found

    async def close(self) -> None:
        await self._resolver.close()


def check_address(host: str) -> None:
    """Raise ForbiddenAddressError unless this address is public, or in HTTP_FETCH_NETWORKS."""
    address: _Address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _TRANSLATED):
            raise ForbiddenAddressError(f"{host} stands for another address.")
        address = address.ipv4_mapped or address.sixtofour or address
    if any(address in network for network in _allowed_networks()):
        return
    if not address.is_global or address.is_multicast:
        raise ForbiddenAddressError(f"{host} is not a public address.")


@cache
def _allowed_networks() -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(network) for network in settings.HTTP_FETCH_NETWORKS]


@tool(idempotent=True, timeout_seconds=TIMEOUT_SECONDS + 1)
async def http_fetch(url: Annotated[str, Field(description="http:// or https://")]) -> dict[str, Any]:
    """Read a page or a JSON document of the public web by GET."""
    options: dict[str, Any] = {"timeout": aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)}
    options["cookie_jar"] = aiohttp.DummyCookieJar()
    connector = aiohttp.TCPConnector(resolver=PublicResolver(), use_dns_cache=False, force_close=True)
    try:
        async with aiohttp.ClientSession(connector=connector, **options) as session:
            return await _fetch(session, url)
    except ForbiddenAddressError as error:
        raise ToolError(f"Not allowed: {error}") from None
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, ForbiddenAddressError):
            raise ToolError(f"Not allowed: {error.os_error}") from None
        raise ToolError(f"{url} cannot be reached.") from None
    except TimeoutError:
        raise ToolError(f"{url} did not answer in time.") from None
    except (aiohttp.ClientError, ValueError) as error:
        raise ToolError(f"{url} cannot be read: {type(error).__name__}.") from None


async def _fetch(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    for _ in range(MAX_REDIRECTS + 1):
        _check_url(url)
        async with session.get(url, allow_redirects=False) as response:
            location = response.headers.get("Location")
            if response.status in _REDIRECTS and location:
                url = str(response.url.join(type(response.url)(location)))
                continue
            kind = response.content_type
            if not kind.startswith(_TEXTS):
                raise ToolError(f"{url} is {kind}, not a text.")
            body = await _read(response)
            text = body[:MAX_BYTES].decode(_encoding(response), errors="replace")
            is_complete = len(body) <= MAX_BYTES
            return {"url": url, "status": response.status, "type": kind, "is_complete": is_complete, "text": text}
    raise ToolError(f"More than {MAX_REDIRECTS} redirects.")


def _check_url(url: str) -> None:
    """aiohttp does not ask the resolver about an address that stands in the URL itself."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ToolError("Only http:// and https:// addresses can be read.")
    try:
        address = ipaddress.ip_address(parts.hostname)
    except ValueError:
        return
    check_address(str(address))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for piece in response.content.iter_chunked(65_536):
        body += piece
        if len(body) > MAX_BYTES:
            break
    return body


def _encoding(response: aiohttp.ClientResponse) -> str:
    try:
        "".encode(response.charset or "utf-8")
    except LookupError:
        return "utf-8"
    return response.charset or "utf-8"
