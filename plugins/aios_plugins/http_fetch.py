"""Fetch a page from a host that the operator has listed.

    [tools.settings.http_fetch]
    hosts = ["example.org", "*.wikipedia.org"]
    private = ["127.0.0.1"]       # addresses of the private network that may be reached

Promises: it connects only to hosts on the list, also after redirects, and never to an address
of a private network unless that is listed; time and size are bounded. Pages are labeled as
untrusted.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from fnmatch import fnmatch
from typing import Any, Final
from urllib.parse import SplitResult, urljoin, urlsplit

from aios_core import InvalidRequest, ToolContext, ToolError, tool

MAX_BYTES: Final = 1 << 20
MAX_REDIRECTS: Final = 5
TIMEOUT_S: Final = 15.0
_REDIRECTS: Final = (301, 302, 303, 307, 308)


@tool(read_only=True, timeout_s=60)
def http_fetch(url: str, context: ToolContext) -> str:
    """Fetch a web page.

    Args:
        url: such as "https://example.org/page".
    """
    hosts = tuple(context.settings.get("hosts", ()))
    private = frozenset(context.settings.get("private", ()))
    for _ in range(MAX_REDIRECTS + 1):
        context.raise_if_cancelled()
        status, headers, body = _get(_checked(url, hosts), private, context.tool)
        if status not in _REDIRECTS or "location" not in headers:
            break
        url = urljoin(url, headers["location"])
    else:
        raise ToolError(context.tool, f"more than {MAX_REDIRECTS} redirects")
    if status >= 400:
        raise ToolError(context.tool, f"{url} answered {status}")
    return body.decode(errors="replace")


def _checked(url: str, hosts: tuple[str, ...]) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise InvalidRequest(f"url: got {url!r:.200}; allowed: http or https, without a user")
    if not any(fnmatch(parts.hostname, pattern) for pattern in hosts):
        allowed = ", ".join(hosts) or "none; tools.settings.http_fetch.hosts lists them"
        raise InvalidRequest(f"url: host {parts.hostname!r} is not allowed; allowed: {allowed}")
    return parts


def _get(
    parts: SplitResult, private: frozenset[str], name: str
) -> tuple[int, dict[str, str], bytes]:
    """Make one request to the checked address and return status, headers and body."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    try:
        address = _address(host, port, private)
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = _Secure(host, port, timeout=TIMEOUT_S)
        else:
            connection = _Plain(host, port, timeout=TIMEOUT_S)
        connection.address = address
        try:
            path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
            connection.request("GET", path, headers={"User-Agent": "aios", "Accept": "text/*"})
            with connection.getresponse() as response:
                body = response.read(MAX_BYTES + 1)
                headers = {key.lower(): value for key, value in response.getheaders()}
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as exc:
        raise ToolError(name, f"cannot fetch from {host}: {exc}") from exc
    if len(body) > MAX_BYTES:
        raise ToolError(name, f"{host} sends more than {MAX_BYTES:,} bytes")
    return response.status, headers, body


def _address(host: str, port: int, private: frozenset[str]) -> str:
    """Return an address of the host that may be reached. Raises `InvalidRequest`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    address = str(found[0][4][0])
    if not ipaddress.ip_address(address).is_global and address not in private:
        raise InvalidRequest(f"url: {host!r} is {address}, an address of a private network")
    return address


class _Plain(http.client.HTTPConnection):
    """An HTTP connection to the checked address, even if the name resolves to another by now."""

    address: str

    def connect(self) -> None:
        self.sock = socket.create_connection((self.address, self.port), self.timeout)


class _Secure(http.client.HTTPSConnection):
    """An HTTPS connection to the checked address, with the certificate of the name."""

    address: str

    def connect(self) -> None:
        plain: Any = socket.create_connection((self.address, self.port), self.timeout)
        try:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
