"""The whoami service and those who ask it, on loopback."""

import ipaddress
import socket
import threading
from contextlib import suppress

import pytest

from p2p.nat.addresses import Address
from p2p.nat.candidates import interfaces, may_dial
from p2p.nat.kinds import Nat, nat_of
from p2p.nat.listener import Listener
from p2p.nat.whereabouts import whereabouts
from p2p.nat.whoami import Observer, WhoamiService, encode_seen

pytestmark = pytest.mark.slow


@pytest.fixture
def service():
    with WhoamiService("127.0.0.1", most=20, most_of_host=10) as service:
        yield service


@pytest.fixture
def observer():
    with Listener() as listener:
        observer = Observer(listener.port, timeout_s=0.5)
        yield observer
        observer.close()


def liar(said):
    """Return the address of a service that says ``said`` to one caller."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        with server, suppress(OSError), server.accept()[0] as sock:
            sock.sendall(said)
            sock.recv(1)

    threading.Thread(target=serve, daemon=True).start()
    return Address(*server.getsockname())


def test_a_data_port_learns_its_address_beside_its_listener(service, observer):
    (sighting,) = observer.look([service.address])
    assert sighting.seen == sighting.local == Address("127.0.0.1", observer.port)
    assert nat_of([sighting]) is Nat.OPEN


def test_a_living_connection_is_kept_and_not_asked_again(service, observer):
    first = observer.look([service.address])
    (sock, _) = observer._kept[service.address]
    assert observer.look([service.address]) == first
    assert observer._kept[service.address][0] is sock
    observer.close()
    assert observer.look([service.address]) == first


def test_a_dead_service_is_left_out_and_asked_anew_later(observer):
    with WhoamiService("127.0.0.1") as service:
        assert observer.look([service.address])
    assert observer.look([service.address]) == ()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"FCw1\x07" + bytes(50),
        encode_seen(Address("45.33.1.9", 1))[:-1],
        b"",
    ],
)
def test_liars_are_left_out(observer, said):
    assert observer.look([liar(said)]) == ()


def test_few_services_are_asked(observer, service):
    wrong = [Address("127.0.0.1", port) for port in range(1, 5)]
    assert observer.look([*wrong, service.address]) == ()


def test_connections_of_one_machine_are_bounded(service):
    socks = [socket.create_connection(service.address) for _ in range(30)]
    answers = []
    for sock in socks:
        sock.settimeout(5)
        answers.append(sock.recv(64))
        sock.settimeout(0.3)
    assert sum(bool(answer) for answer in answers) == 10
    for sock in socks:
        sock.close()


def test_whereabouts_puts_it_all_together(service, observer):
    here = whereabouts(observer, [service.address], only=("127.0.0.1",))
    kinds = {c.address: c.kind for c in here.candidates}
    assert {c.address.port for c in here.candidates} == {observer.port}
    assert Address("127.0.0.1", observer.port) in kinds
    assert here.nat is Nat.OPEN


def test_no_relay_makes_us_speak_to_services_of_this_machine(service, observer):
    here = ipaddress.ip_interface("45.33.1.7/24")
    assert observer.look([service.address])
    observer.close()
    assert may_dial(service.address, (here,), together=True) is False
    if any(not i.ip.is_loopback for i in interfaces()):
        assert whereabouts(observer, [service.address]).nat is Nat.UNKNOWN
