"""Ports of the router: NAT-PMP and UPnP against small real routers on loopback."""

import random
import socket
import struct
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import PeerLostError, ProtocolError
from p2p.mapping.http import asked
from p2p.mapping.natpmp import (
    NatPmp,
    read_address,
    read_mapping,
    request_address,
    request_mapping,
)
from p2p.mapping.port import MappedPort, default_gateway
from p2p.mapping.upnp import Upnp, location_in, service_in
from p2p.mapping.way import Mapping

WAN_IP = "45.33.1.10"


# --- NAT-PMP: bytes, worked out by hand from RFC 6886 ----------------------------


def test_requests_are_the_bytes_of_the_rfc():
    assert request_address().hex() == "0000"
    mapped = request_mapping(inner=4001, outer=4002, life_s=7200)
    assert mapped.hex() == "00020000" + "0fa1" + "0fa2" + "00001c20"


def test_replies_are_read_as_in_the_rfc():
    assert read_address(bytes.fromhex("00800000000000ff2d21010a")) == WAN_IP
    reply = bytes.fromhex("00820000000000ff0fa10fa200001c20")
    assert read_mapping(reply, inner=4001) == (4002, 7200)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("00820002000000ff", "does not allow mappings"),
        ("00820004000000ff0fa10fa200001c20", "no port left"),
        ("00820063000000ff", "result 99"),
        ("00820000000000ff0fa20fa200001c20", "for port 4002"),
        ("00820000000000ff0fa10fa200001c", "15 bytes"),
        ("00820000000000ff0fa10fa200001c2000", "17 bytes"),
        ("01820000000000ff0fa10fa200001c20", "not of NAT-PMP"),
        ("00020000000000ff0fa10fa200001c20", "not of NAT-PMP"),
        ("", "not of NAT-PMP"),
    ],
)
def test_wrong_replies_are_refused_by_reason(reply, words):
    with pytest.raises(ProtocolError, match=words):
        read_mapping(bytes.fromhex(reply), inner=4001)


@given(st.binary(max_size=24))
def test_no_reply_breaks_the_decoders(reply):
    for read in (read_address, lambda data: read_mapping(data, 4001)):
        try:
            read(reply)
        except ProtocolError:
            continue
        assert reply[:4] in (b"\0\x80\0\0", b"\0\x82\0\0")


class Router:
    """A NAT-PMP router; ``deaf`` = how many datagrams it loses first."""

    def __init__(self, deaf=0, result=0, taken=()):
        self.deaf, self.result, self.taken = deaf, result, taken
        self.mappings, self.requests = {}, []
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            data, sender = self.sock.recvfrom(64)
            if not data:
                return
            self.requests.append(data)
            if self.deaf:
                self.deaf -= 1
                continue
            self.sock.sendto(self.answer(data), sender)

    def answer(self, data):
        head = struct.pack(">BBHI", 0, data[1] + 128, self.result, 5)
        if data[1] == 0:
            return head + socket.inet_aton(WAN_IP)
        inner, outer, life_s = struct.unpack(">HHI", data[4:])
        if not life_s:
            self.mappings.pop(inner, None)
            return head + struct.pack(">HHI", inner, 0, 0)
        while outer in self.taken:
            outer += 1
        self.mappings[inner] = outer
        return head + struct.pack(">HHI", inner, outer, min(life_s, 3600))

    def way(self):
        return NatPmp("127.0.0.1", self.port)

    def close(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", ("127.0.0.1", self.port))
        self.thread.join()
        self.sock.close()


@contextmanager
def router(**kinds):
    made = Router(**kinds)
    try:
        yield made
    finally:
        made.close()


def test_a_port_is_mapped_and_given_back():
    with router(taken={4001, 4002}) as there:
        mapping = there.way().open(4001, 7200, 4001)
        assert mapping == Mapping(WAN_IP, 4003, 4001, 3600)
        assert mapping.is_public
        there.way().close(mapping)
        assert there.mappings == {}


def test_what_is_lost_is_sent_again():
    with router(deaf=1) as there:
        assert there.way().open(4001, 60, 4001).port == 4001
        assert len(there.requests) == 3


def test_a_router_that_refuses_says_why():
    with router(result=2) as there, pytest.raises(ProtocolError, match="not allow"):
        there.way().open(4001, 60, 4001)


def test_where_nothing_listens_it_is_known_at_once():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        way = NatPmp("127.0.0.1", free.getsockname()[1])
    with pytest.raises(PeerLostError, match="not speak NAT-PMP"):
        way.open(4001, 60, 4001)


# --- UPnP: a minimal Internet gateway device ------------------------------------

DESCRIPTION = """<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><device><deviceList><device>
<serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<controlURL>/control</controlURL></service></serviceList>
</device></deviceList></device></root>"""


class Device(BaseHTTPRequestHandler):
    """Answers for the gateway that is ``self.server.gateway``."""

    def do_GET(self):
        self.reply(200, self.server.gateway.description)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        action = self.headers["SOAPAction"].rpartition("#")[2].strip('"')
        self.reply(*self.server.gateway.act(action, body))

    def reply(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


def value(body, name):
    return body.partition(f"<{name}>")[2].partition(f"</{name}>")[0]


class Gateway:
    """SSDP over UDP and SOAP over HTTP, both on loopback."""

    def __init__(self, description=DESCRIPTION, faults=()):
        self.description, self.faults = description, list(faults)
        self.mappings, self.calls = {}, []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Device)
        self.http.gateway, self.http.daemon_threads = self, True
        self.location = f"http://127.0.0.1:{self.http.server_port}/igd.xml"
        self.ssdp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.ssdp.bind(("127.0.0.1", 0))
        serves = (self.http.serve_forever, self.shout)
        self.threads = [threading.Thread(target=s, daemon=True) for s in serves]
        for thread in self.threads:
            thread.start()

    def shout(self):
        while True:
            data, sender = self.ssdp.recvfrom(2048)
            if not data:
                return
            for location in ("http://10.9.9.9/elsewhere.xml", self.location):
                text = f"HTTP/1.1 200 OK\r\nLOCATION: {location}\r\n\r\n"
                self.ssdp.sendto(text.encode(), sender)

    def act(self, action, body):
        self.calls.append((action, body))
        if action == "AddPortMapping" and self.faults:
            code = self.faults.pop(0)
            return 500, f"<e><errorCode>{code}</errorCode></e>"
        port = value(body, "NewExternalPort")
        if action == "AddPortMapping":
            names = ("NewInternalClient", "NewInternalPort", "NewLeaseDuration")
            self.mappings[port] = tuple(value(body, name) for name in names)
        if action == "DeletePortMapping":
            self.mappings.pop(port, None)
        ip = f"<NewExternalIPAddress>{WAN_IP}</NewExternalIPAddress>"
        return 200, f"<r>{ip if action.startswith('Get') else ''}</r>"

    def way(self):
        return Upnp("127.0.0.1", self.ssdp.getsockname())

    def close(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self.ssdp.getsockname())
        self.http.shutdown()
        for thread in self.threads:
            thread.join()
        self.http.server_close()
        self.ssdp.close()


@contextmanager
def gateway(**kinds):
    made = Gateway(**kinds)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.slow
def test_a_gateway_is_found_maps_and_takes_back():
    with gateway() as there:
        way = there.way()
        mapping = way.open(4001, 3600, 4001)
        assert mapping == Mapping(WAN_IP, 4001, 4001, 3600)
        assert there.mappings == {"4001": ("127.0.0.1", "4001", "3600")}
        way.close(mapping)
        assert there.mappings == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "expected"),
    [(725, Mapping(WAN_IP, 4001, 4001, 0)), (718, Mapping(WAN_IP, 29042, 4001, 60))],
)
def test_the_two_common_refusals_are_lived_with(code, expected):
    with gateway(faults=[code]) as there:
        assert there.way().open(4001, 60, 4001) == expected


@pytest.mark.slow
def test_other_refusals_are_told():
    with gateway(faults=[606]) as there, pytest.raises(ProtocolError, match="606"):
        there.way().open(4001, 60, 4001)


def test_answers_that_lead_elsewhere_are_not_followed():
    def answer(url, first="HTTP/1.1 200 OK"):
        return f"{first}\r\nST: x\r\nLocation: {url}\r\n\r\n".encode()

    good = "http://192.168.1.1:5000/a.xml?b=1"
    assert location_in(answer(good), "192.168.1.1") == good
    assert location_in(answer(good), "192.168.1.2") is None
    assert location_in(answer("http://8.8.8.8/a"), "8.8.8.8") is None
    assert location_in(answer("file:///etc/passwd"), "192.168.1.1") is None
    assert location_in(answer("http://192.168.1.1:99999/"), "192.168.1.1") is None
    assert location_in(answer("http://["), "192.168.1.1") is None
    assert location_in(answer(good, "NOTIFY * HTTP/1.1"), "192.168.1.1") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((">/control<", ">http://10.0.0.1/x<"), "elsewhere"),
        ((">/control<", ">/a b<"), "elsewhere"),
        ((">/control<", ">http://[<"), "elsewhere"),
        (("WANIPConnection:1", "Printer:1"), "no WAN connection"),
        (("</root>", ""), "broken"),
        (("<root", '<!DOCTYPE r [<!ENTITY a "b">]><root'), "declarations"),
    ],
)
def test_descriptions_that_lie_are_refused(change, words):
    xml = DESCRIPTION.replace(*change).encode()
    with pytest.raises(ProtocolError, match=words):
        service_in(xml, "http://192.168.1.1:5000/a.xml")


@given(st.binary(max_size=200), st.integers(0, len(DESCRIPTION)))
def test_no_description_breaks_the_reader(junk, at):
    raw = DESCRIPTION.encode()
    for xml in (junk, raw[:at] + junk + raw[at:], DESCRIPTION.encode("utf-16") + junk):
        try:
            service = service_in(xml, "http://192.168.1.1:5000/a.xml")
        except ProtocolError:
            continue
        assert service.url.startswith("http://192.168.1.1:5000/")


@given(st.binary(max_size=300))
def test_no_answer_to_a_search_breaks_us(data):
    place = location_in(b"HTTP/1.1 200" + data, "192.168.1.1")
    assert place is None or place.startswith("http://192.168.1.1")


# --- HTTP with strangers ---------------------------------------------------------


@contextmanager
def answering(*parts, every_s=0.0):
    """Serve one connection with these bytes, ``every_s`` seconds apart."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            sock, _ = listener.accept()
            with sock:
                sock.recv(1 << 16)
                for part in parts:
                    try:
                        sock.sendall(part)
                    except OSError:
                        return
                    time.sleep(every_s)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(10)


def test_chunked_and_short_answers_are_read():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(head, b"3\r\nabc\r\n0\r\n\r\n") as url:
        assert asked(url) == (200, b"abc")
    with answering(b"HTTP/1.0 500 No\r\n\r\n") as url:
        assert asked(url, b"x") == (500, b"")


def test_an_answer_without_end_is_cut_off():
    parts = [b"HTTP/1.1 200 OK\r\n\r\n"] + [b"x" * 65536] * 9
    with answering(*parts) as url, pytest.raises(ProtocolError, match="more than"):
        asked(url)


@pytest.mark.parametrize("junk", [b"", b"\0" * 100, b"HTTP/9.9\r\n\r\n"])
def test_what_is_not_http_is_refused(junk):
    with answering(junk) as url, pytest.raises(ProtocolError, match="not HTTP"):
        asked(url)


@pytest.mark.slow
def test_an_answer_that_trickles_ends_in_time():
    drops = [b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"] + [b"x"] * 40
    with answering(*drops, every_s=0.1) as url, pytest.raises(PeerLostError):
        asked(url)


# --- keeping a port --------------------------------------------------------------


class Script:
    """A ``Way`` that does what a list says: a life in seconds, or an error."""

    def __init__(self, name, *script):
        self.name, self.script = name, list(script)
        self.closed = []

    def open(self, port, life_s, wanted):
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Exception):
            raise step
        return Mapping(WAN_IP, wanted, port, step)

    def close(self, mapping):
        self.closed.append(mapping)


def kept(*ways):
    """Return a running keeper and a list of all it has said."""
    said = []
    keeper = MappedPort(
        4001, ways, random.Random(0), lambda: said.append(keeper.words), life_s=4
    )
    keeper.start()
    return keeper, said


def wait_for(condition):
    end_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_the_second_way_is_taken_and_given_back_at_the_end():
    first, second = Script("A", PeerLostError("nobody there")), Script("B", 3600)
    keeper, said = kept(first, second)
    wait_for(lambda: keeper.mapping)
    assert keeper.words == f"{WAN_IP}:4001 leads here (B)"
    keeper.close()
    assert second.closed == [Mapping(WAN_IP, 4001, 4001, 3600)]
    assert (keeper.mapping, said[-1]) == (None, "given back")


def test_failures_are_words_and_nothing_else():
    keeper, said = kept(
        Script("A", PeerLostError("gone")), Script("B", ProtocolError("x"))
    )
    wait_for(lambda: said)
    assert said == ["A: gone; B: x"]
    keeper.close()
    keeper, said = kept()
    wait_for(lambda: said)
    assert said == ["there is no router to ask"]
    keeper.close()


@pytest.mark.slow
def test_it_renews_before_the_end_and_notices_when_that_fails():
    way = Script("A", 2, 2, PeerLostError("unplugged"))
    keeper, said = kept(way)
    wait_for(lambda: said and said[-1] == "A: unplugged")
    assert said == [f"{WAN_IP}:4001 leads here (A)", "A: unplugged"]
    keeper.close()


def test_a_second_nat_behind_the_router_is_told():
    inner = Script("A", 60)
    inner.open = lambda port, life_s, wanted: Mapping("100.64.0.9", wanted, port, 60)
    keeper, _ = kept(inner)
    wait_for(lambda: keeper.mapping)
    assert keeper.words.endswith("behind another NAT")
    keeper.close()


def test_the_router_is_read_from_the_table_of_routes(tmp_path):
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway \tFlags\n"
        "eth0\t0001A8C0\t00000000\t0001\n"
        "eth0\t00000000\t0101A8C0\t0003\n"
    )
    assert default_gateway(table) == "192.168.1.1"
    table.write_text("Iface\nnonsense\n")
    assert default_gateway(table) is None
    assert default_gateway(tmp_path / "none") is None
