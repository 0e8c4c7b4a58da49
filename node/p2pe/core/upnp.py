"""UPnP Internet gateways: what is sent to one and read from its answers, as bytes and text. Pure.

Sources: UPnP Device Architecture 1.1 (discovery, description, control), WANIPConnection:1 and :2. What a router sends
is a stranger's input: bounded by the caller, and without any XML declaration of entities or types.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from p2pe.errors import RemoteError

GROUP: Final = "239.255.255.250"
PORT: Final = 1900
SERVICES: Final = (
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)
ONLY_PERMANENT: Final = 725  # OnlyPermanentLeasesSupported
CONFLICT: Final = 718  # ConflictInMappingEntry: another machine's
_DEVICES: Final = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
)
_MAX_ELEMENTS: Final = 2_000  # of a description: real ones have about 150
_MAX_URL: Final = 512


class SoapFault(RemoteError):
    """The router refused an action. `number` is UPnP's error code, 0 when it gave none."""

    code = "upnp_fault"

    def __init__(self, number: int) -> None:
        super().__init__(f"the router refused (UPnP error {number})" if number else "the router refused")
        self.number = number


@dataclass(frozen=True, slots=True)
class Control:
    """Where a router takes orders."""

    host: str  # IP address
    port: int
    path: str
    service: str


def searches() -> tuple[bytes, ...]:
    """M-SEARCH datagrams that gateways answer."""
    return tuple(
        "\r\n".join(
            ("M-SEARCH * HTTP/1.1", f"HOST: {GROUP}:{PORT}", 'MAN: "ssdp:discover"', "MX: 1", f"ST: {kind}", "", "")
        ).encode()
        for kind in _DEVICES
    )


def location_of(answer: bytes, sender: str) -> tuple[str, int, str] | None:
    """(IP, port, path) of the description that a search's answer names; None unless that is on the sender itself:
    otherwise anybody on the network could have us send requests to anywhere."""
    lines = answer.decode("latin-1").split("\r\n")
    if not lines[0].startswith("HTTP/1.1 200"):
        return None
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name.strip().upper() == "LOCATION":
            return _on(sender, value.strip())
    return None


def _on(host: str, url: str) -> tuple[str, int, str] | None:
    try:
        parts = urlsplit(url[: _MAX_URL + 1])
        port = parts.port or 80
        same = ipaddress.ip_address(parts.hostname or "") == ipaddress.ip_address(host)
    except ValueError:
        return None
    if parts.scheme != "http" or not same or len(url) > _MAX_URL or any(c <= " " or c > "~" for c in url):
        return None
    return host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def control_of(description: bytes, location: tuple[str, int, str]) -> Control:
    """The best service of a device description found at `location`. Raises RemoteError."""
    host, port, path = location
    root = _parse(description)
    base = f"http://{host}:{port}{path}"
    found: dict[str, str] = {}
    for element in root.iter():
        if _name(element) == "URLBase" and element.text:
            base = element.text.strip()
        elif _name(element) == "service":
            fields = {_name(child): (child.text or "").strip() for child in element}
            found.setdefault(fields.get("serviceType", ""), fields.get("controlURL", ""))
    for service in SERVICES:
        if found.get(service):
            try:
                target = _on(host, urljoin(base, found[service]))
            except ValueError:  # of urljoin: half an IPv6 address
                target = None
            if target is not None:
                return Control(*target, service)
    raise RemoteError("the router's description names no way to map ports")


def _parse(text: bytes) -> ElementTree.Element:
    if b"<!" in text.replace(b"<!--", b"") or b"\0" in text:  # the second: UTF-16 would hide the first
        raise RemoteError("a router's XML with declarations")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError):
        raise RemoteError("a router's XML can't be read") from None
    if sum(1 for _ in root.iter()) > _MAX_ELEMENTS:
        raise RemoteError("a router's XML is too large")
    return root


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


# --- orders ---


def order(control: Control, action: str, arguments: dict[str, str]) -> bytes:
    """An HTTP request that calls `action`."""
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in arguments.items())
    body = (
        '<?xml version="1.0"?>'
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:{action} xmlns:u="{control.service}">{inner}</u:{action}></s:Body></s:Envelope>'
    ).encode()
    head = (
        f"POST {control.path} HTTP/1.1\r\nHost: {control.host}:{control.port}\r\n"
        f'Content-Type: text/xml; charset="utf-8"\r\nSOAPAction: "{control.service}#{action}"\r\n'
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def description_request(location: tuple[str, int, str]) -> bytes:
    host, port, path = location
    return f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()


def add_mapping(external_port: int, client: str, internal_port: int, seconds: int) -> dict[str, str]:
    """Arguments of AddPortMapping for TCP."""
    return {
        "NewRemoteHost": "",
        "NewExternalPort": str(external_port),
        "NewProtocol": "TCP",
        "NewInternalPort": str(internal_port),
        "NewInternalClient": client,
        "NewEnabled": "1",
        "NewPortMappingDescription": "p2p",  # everybody on the network can read it
        "NewLeaseDuration": str(seconds),
    }


def delete_mapping(external_port: int) -> dict[str, str]:
    """Arguments of DeletePortMapping."""
    return {"NewRemoteHost": "", "NewExternalPort": str(external_port), "NewProtocol": "TCP"}


def split_answer(raw: bytes) -> tuple[int, bytes]:
    """Status and body of an HTTP answer that ended with its connection. Raises RemoteError."""
    head, mark, body = raw.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if not mark or len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise RemoteError("the router's answer isn't HTTP")
    if b"transfer-encoding: chunked" in head.lower():
        body = _unchunk(body)
    return int(words[1][:3]), body


def _unchunk(body: bytes) -> bytes:
    joined = bytearray()
    while body:
        size_text, _, body = body.partition(b"\r\n")
        try:
            size = int(size_text.partition(b";")[0], 16)
        except ValueError:
            raise RemoteError("the router's answer isn't HTTP") from None
        if size <= 0:
            break
        joined += body[:size]
        body = body[size + 2 :]
    return bytes(joined)


def result_of(raw: bytes, name: str) -> str:
    """The text of one argument of an action's answer, "" when it has none. Raises SoapFault, RemoteError."""
    status, body = split_answer(raw)
    if status != 200 and not body:
        raise SoapFault(0)
    values = {_name(element): (element.text or "").strip() for element in _parse(body).iter()}
    if status != 200 or "Fault" in values:
        number = values.get("errorCode", "")
        raise SoapFault(int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 0)
    return values.get(name, "")
