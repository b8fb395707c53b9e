import datetime
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress

import pytest

from clients.split.client import SplitClient
from clients.split.cut import Cut
from clients.split.messages import Message, decode, encode
from clients.split.server import SplitServer
from clients.split.slow import Net, SlowChannel
from clients.split.sockets import Listening, SocketChannel, tcp
from fedcore.errors import ConfigError, PeerLostError, ProtocolError
from fedcore.params import digest
from tests.split_cases import start_of, task_of


class Echo:
    """Answers with what came; refuses a ``bye``."""

    def take(self, data):
        if data == b"bye":
            raise ProtocolError("no goodbyes")
        return data


@pytest.fixture
def echo():
    with Listening(Echo) as listening:
        yield listening


def test_messages_of_any_size_come_whole(echo):
    channel = echo.dial()
    for size in (0, 1, 5, 3_000_000):
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        channel.send(data)
        assert channel.receive() == data
    assert channel.sent_bytes == channel.received_bytes == 3_000_006 + 16
    channel.close()


def test_a_refusal_is_told_and_then_the_line_is_closed(echo):
    channel = echo.dial()
    channel.send(b"bye")
    assert decode(channel.receive()).facts == {"reason": "no goodbyes"}
    with pytest.raises(PeerLostError):
        channel.receive()
    channel.close()


def test_a_length_above_the_limit_is_refused_before_it_is_believed(echo):
    with socket.create_connection((echo.host, echo.port)) as line:
        line.sendall(struct.pack("<I", 1 << 31))
        answer = SocketChannel(line)
        assert "2147483648 bytes" in str(decode(answer.receive()).facts["reason"])


def test_half_a_message_is_a_lost_peer(echo):
    near, far = socket.create_server(("127.0.0.1", 0)), None
    dialled = tcp(*near.getsockname())()
    far, _ = near.accept()
    far.sendall(struct.pack("<I", 10) + b"12345")
    far.close()
    with pytest.raises(PeerLostError, match="hung up"):
        dialled.receive()
    dialled.close()
    near.close()


def test_silence_is_a_lost_peer():
    with socket.create_server(("127.0.0.1", 0)) as server:
        channel = tcp(*server.getsockname(), timeout_s=0.05)()
        with pytest.raises(PeerLostError, match="timed out"):
            channel.receive()
        channel.close()


def test_ports_that_cannot_be_used(echo):
    with pytest.raises(ConfigError, match="choose another port"):
        Listening(Echo, port=echo.port)
    with socket.socket() as bound:  # ours, so that nobody else listens there
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(PeerLostError, match="does not answer"):
            tcp(*bound.getsockname())()


def test_a_server_that_closes_hangs_up_on_everybody():
    listening = Listening(Echo)
    channels = [listening.dial() for _ in range(3)]
    for channel in channels:
        channel.send(b"x")
        assert channel.receive() == b"x"
    listening.close()
    for channel in channels:
        with pytest.raises(PeerLostError):
            channel.receive()
        channel.close()


def certificate(folder):
    """Write a certificate for 127.0.0.1 that signs itself, and its key."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "split")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            pem,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def test_tls_carries_the_same_bits_and_trusts_only_whom_it_should(tmp_path):
    certificate(tmp_path)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    ours = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    task, start = task_of("mlp"), start_of("mlp")
    client = SplitClient(task, Cut(1), tries=1)
    server = SplitServer(task, Cut(1), start)
    plain = client.train(SplitServer(task, Cut(1), start).dial, 3, start)
    with Listening(server.visit, tls=theirs) as listening:
        at = (listening.host, listening.port)
        done = client.train(tcp(*at, tls=ours), 3, start)
        assert digest(done.params) == digest(plain.params)
        with pytest.raises(ProtocolError, match=r"certificate of 127.0.0.1"):
            tcp(*at, tls=ssl.create_default_context())()
        with pytest.raises(PeerLostError):
            client.train(tcp(*at), 3, start, version=1)


def test_a_server_closes_while_a_client_does_not_shake_hands(tmp_path):
    certificate(tmp_path)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    listening = Listening(Echo, tls=theirs, timeout_s=600.0)
    with socket.create_connection((listening.host, listening.port)) as mute:
        time.sleep(0.3)  # it has begun by now; if not, closing is easier
        closing = threading.Thread(target=listening.close, daemon=True)
        closing.start()
        closing.join(60.0)
        assert not closing.is_alive()
        assert mute.recv(1) == b""


def test_a_slow_link_keeps_the_order_and_takes_its_time(echo):
    net = Net(delay_s=0.03, bytes_per_s=1e6)
    channel = SlowChannel(echo.dial(), net)
    messages = [encode(Message("bye", step)) for step in range(3)] + [bytes(20_000)]
    began_s = time.perf_counter()
    for data in messages:
        channel.send(data)
    assert [channel.receive() for _ in messages] == messages
    assert time.perf_counter() - began_s >= 0.03 + 0.02  # never quicker than the link
    channel.close()
    with pytest.raises(ConfigError, match="bytes_per_s > 0"):
        Net(bytes_per_s=0.0)


def test_who_sends_byte_by_byte_does_not_keep_a_place():
    """Each byte comes in time, all of them do not."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    done = threading.Event()

    def trickle():
        while not done.wait(0.02):
            with suppress(OSError):
                theirs.send(b"\0")

    thread = threading.Thread(target=trickle)
    theirs.send(struct.pack("<I", 1000))
    thread.start()
    try:
        with pytest.raises(PeerLostError, match="of 1000 bytes"):
            SocketChannel(ours, timeout_s=0.2).receive()
    finally:
        done.set()
        thread.join()
        ours.close()
        theirs.close()
