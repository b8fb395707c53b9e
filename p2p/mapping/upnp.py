"""UPnP: find the router by shouting, read what it is, ask it for a port.

SSDP (a multicast datagram) finds devices; one of them describes itself in XML, which
says where its WAN connection service takes SOAP calls. Any machine on the LAN may
answer, so: nothing is fetched but from the address that answered, which must be a
private one; sizes, times and counts are bounded; XML that declares anything is refused.

Source: UPnP Device Architecture 1.1; WANIPConnection 1 and 2.
"""

import ipaddress
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from fedcore.errors import PeerLostError, ProtocolError
from fedcore.names import shown
from p2p.mapping.http import asked
from p2p.mapping.way import Mapping

GROUP = ("239.255.255.250", 1900)
LISTEN_S = 1.5  # for answers to the search
MAX_DEVICES = 4  # of those that answer, how many are looked at
_SERVICES = re.compile(
    r"urn:schemas-upnp-org:service:WAN(IP|PPP)Connection:[12]", re.ASCII
)
_TARGETS = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
)
_ONLY_PERMANENT, _CONFLICT = 725, 718
_LOCATION = re.compile(rb"(?im)^location:[ \t]*([!-~]{1,512})[ \t]*\r?$")


class SoapFaultError(ProtocolError):
    """The router understood a call and refused it; ``code`` says why."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(f"the router refused: {why or 'error'} ({code})")
        self.code = code


@dataclass(frozen=True, slots=True)
class Service:
    """Where a router takes calls, and of what type it says it is."""

    url: str
    kind: str


@dataclass(slots=True)
class Upnp:
    """A ``Way``: whatever router answers on the network of ``inner_host``.

    Attributes:
        inner_host: our own IPv4 address, to which the router shall lead.
        group: where the search is sent.
    """

    inner_host: str
    group: tuple[str, int] = GROUP
    name: str = "UPnP"
    _service: Service | None = field(default=None, init=False)

    def open(self, port: int, life_s: int, wanted: int) -> Mapping:
        service = self._service or self._found()
        try:
            host = _outer_host(_called(service, "GetExternalIPAddress"))
            mapping = self._mapped(service, Mapping(host, wanted or port, port, life_s))
        except (PeerLostError, ProtocolError):
            self._service = None  # it may have restarted elsewhere: search next time
            raise
        self._service = service
        return mapping

    def close(self, mapping: Mapping) -> None:
        if self._service is not None:
            where = {"NewRemoteHost": "", "NewExternalPort": str(mapping.port)}
            _called(self._service, "DeletePortMapping", where | {"NewProtocol": "TCP"})

    def _mapped(self, service: Service, mapping: Mapping) -> Mapping:
        """Map, with the two concessions that routers in the field ask for."""
        try:
            return self._map(service, mapping)
        except SoapFaultError as no:
            if no.code == _ONLY_PERMANENT:
                other = Mapping(mapping.host, mapping.port, mapping.inner_port, 0)
            elif no.code == _CONFLICT:
                port = 1024 + (mapping.port * 7 + 11) % 60000
                other = Mapping(mapping.host, port, mapping.inner_port, mapping.life_s)
            else:
                raise
        return self._map(service, other)

    def _map(self, service: Service, mapping: Mapping) -> Mapping:
        _called(
            service,
            "AddPortMapping",
            {
                "NewRemoteHost": "",
                "NewExternalPort": str(mapping.port),
                "NewProtocol": "TCP",
                "NewInternalPort": str(mapping.inner_port),
                "NewInternalClient": self.inner_host,
                "NewEnabled": "1",
                "NewPortMappingDescription": "peer",
                "NewLeaseDuration": str(mapping.life_s),
            },
        )
        return mapping

    def _found(self) -> Service:
        """Return the service of the first router that has one."""
        why = "no router answers to UPnP"
        for location in search(self.inner_host, self.group):
            try:
                return service_in(asked(location).body, location)
            except (PeerLostError, ProtocolError) as error:
                why = str(error)
        raise PeerLostError(why)


def search(inner_host: str, group: tuple[str, int] = GROUP) -> Sequence[str]:
    """Return the URLs of what calls itself a router, in the order of the answers.

    Raises:
        PeerLostError: the search cannot be sent.
    """
    found: dict[str, None] = {}
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((inner_host, 0))
            own = socket.inet_aton(inner_host)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)
            for target in _TARGETS:
                sock.sendto(_question(target), group)
            _collect(sock, found)
    except OSError as error:
        raise PeerLostError(f"cannot search for a router: {error.strerror}") from error
    return list(found)


def _question(target: str) -> bytes:
    lines = [
        "M-SEARCH * HTTP/1.1",
        f"HOST: {GROUP[0]}:{GROUP[1]}",
        'MAN: "ssdp:discover"',
        "MX: 1",
        f"ST: {target}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _collect(sock: socket.socket, found: dict[str, None]) -> None:
    """Take answers for a while; once there is one, others have only a moment."""
    end_s = time.monotonic() + LISTEN_S
    while (left_s := end_s - time.monotonic()) > 0 and len(found) < MAX_DEVICES:
        sock.settimeout(left_s)
        try:
            data, (sender, _) = sock.recvfrom(2048)
        except TimeoutError:
            return
        place = location_in(data, sender)
        if place is not None:
            found[place] = None
            end_s = min(end_s, time.monotonic() + 0.2)


def location_in(data: bytes, sender: str) -> str | None:
    """Return the URL in an answer to the search, if it leads to its sender."""
    match = _LOCATION.search(data)
    if not data.startswith(b"HTTP/1.1 200") or match is None:
        return None
    url = match[1].decode("ascii")
    try:
        parts = urlsplit(url)
        fits = parts.scheme == "http" and parts.hostname == sender and parts.port != 0
    except ValueError:
        return None
    return url if fits and ipaddress.ip_address(sender).is_private else None


def service_in(xml: bytes, location: str) -> Service:
    """Return the WAN connection service that a router describes.

    Raises:
        ProtocolError: the description is broken, has no such service, or one elsewhere.
    """
    for node in _tree(xml).iter():
        if not node.tag.endswith("}service"):
            continue
        parts = {child.tag.rpartition("}")[2]: child.text or "" for child in node}
        kind, control = parts.get("serviceType", ""), parts.get("controlURL", "")
        if _SERVICES.fullmatch(kind.strip()):
            return Service(_beside(location, control.strip()), kind.strip())
    raise ProtocolError("a device answered that has no WAN connection")


def _beside(location: str, control: str) -> str:
    """Return the URL ``control`` as it is meant on the page ``location``."""
    try:
        url = urljoin(location, control)
        same = urlsplit(url)[:2] == urlsplit(location)[:2]
    except ValueError:
        same = False
    if not same or not url.isascii() or not url.isprintable() or " " in url:
        raise ProtocolError(f"a router sends us elsewhere: {shown(control)}")
    return url


def _tree(xml: bytes) -> ElementTree.Element:
    """Parse ``xml`` that declares nothing; what is declared can expand without end."""
    text = xml.decode("utf-8", "replace")  # a form that hides "<!" does not parse
    if "<!" in text.replace("<!--", ""):
        raise ProtocolError("the router's XML has declarations")
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - no declarations, small
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        wrong = f"the router's XML is broken: {shown(str(error))}"
        raise ProtocolError(wrong) from error


def _called(
    service: Service, action: str, values: dict[str, str] | None = None
) -> dict[str, str]:
    """Return what the router answers to one SOAP call."""
    inner = "".join(f"<{k}>{escape(v)}</{k}>" for k, v in (values or {}).items())
    body = (
        '<?xml version="1.0"?><s:Envelope s:encodingStyle="http://schemas.xmlsoap.org'
        '/soap/encoding/" xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
        f'<u:{action} xmlns:u="{service.kind}">{inner}</u:{action}>'
        "</s:Body></s:Envelope>"
    )
    headers = ('Content-Type: text/xml; charset="utf-8"', _action(service, action))
    answer = asked(service.url, body.encode(), headers)
    found = {
        node.tag.rpartition("}")[2]: (node.text or "").strip()
        for node in _tree(answer.body).iter()
    }
    if answer.status != 200:
        code = found.get("errorCode", "")
        number = int(code) if code.isdigit() and len(code) < 6 else answer.status
        raise SoapFaultError(number, shown(found.get("errorDescription", "")))
    return found


def _action(service: Service, action: str) -> str:
    return f'SOAPAction: "{service.kind}#{action}"'


def _outer_host(values: dict[str, str]) -> str:
    text = values.get("NewExternalIPAddress", "")
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise ProtocolError(f"the router's outer address is {shown(text)}") from None
