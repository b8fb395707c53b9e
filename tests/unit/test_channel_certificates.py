"""A peer's certificate has one spelling, and proves one key."""

import pytest

from fedcore.errors import ConfigError, ProtocolError
from p2p.channel.certificates import Credentials, peer_of_certificate
from p2p.channel.tls import Tls
from p2p.identity.keys import Key
from tests.channel_ends import A, B

KEY = Key(b"k" * 32)


def test_a_certificate_is_a_function_of_the_key():
    mine = Credentials.of(KEY)
    assert mine == Credentials.of(KEY)
    assert peer_of_certificate(mine.certificate) == mine.peer == KEY.peer
    assert A.certificate != B.certificate
    assert b"PRIVATE" in mine.secret
    assert "PRIVATE" not in repr(mine)


def test_every_changed_byte_is_refused():
    good = A.certificate
    accepted = 0
    for at in range(len(good)):
        bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        with pytest.raises(ProtocolError):
            accepted += bool(peer_of_certificate(bad))
    assert accepted == 0


@pytest.mark.parametrize(
    "bad", [b"", b"\x30", A.certificate[:-1], A.certificate + b"\0", bytes(5000)]
)
def test_what_is_no_certificate(bad):
    with pytest.raises(ProtocolError, match="certificate"):
        peer_of_certificate(bad)


def test_a_certificate_of_another_authority_or_with_more_in_it():
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    def made(key, **changed):
        name = changed.get("name", KEY.peer)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
            .not_valid_after(
                datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
            )
        )
        if changed.get("ca"):
            more = x509.BasicConstraints(ca=True, path_length=None)
            builder = builder.add_extension(more, critical=True)
        signed = builder.sign(changed.get("signer", key), changed.get("hash"))
        return signed.public_bytes(serialization.Encoding.DER)

    own = Ed25519PrivateKey.from_private_bytes(KEY.seed)
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    assert peer_of_certificate(made(own)) == KEY.peer
    with pytest.raises(ProtocolError, match="did not sign"):
        peer_of_certificate(made(own, signer=other))
    with pytest.raises(ProtocolError, match="of 225 bytes"):
        peer_of_certificate(made(own, name="somebody else"))
    with pytest.raises(ProtocolError, match="more, or less"):
        peer_of_certificate(made(own, ca=True))
    elliptic = ec.generate_private_key(ec.SECP256R1())
    from cryptography.hazmat.primitives import hashes

    with pytest.raises(ProtocolError, match="more, or less"):
        peer_of_certificate(made(elliptic, hash=hashes.SHA256()))


def test_the_secret_is_never_in_a_file_that_others_can_read(monkeypatch, tmp_path):
    monkeypatch.delattr("os.memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen = []

    def load(_, path):
        seen.append(path)
        assert tmp_path.joinpath(path).stat().st_mode & 0o777 == 0o600
        raise OSError("damaged")

    monkeypatch.setattr("ssl.SSLContext.load_cert_chain", load)
    with pytest.raises(ConfigError, match="cannot load our own key: damaged"):
        Tls(None, A, B.certificate, dialer=True)
    assert len(seen) == 1
    assert list(tmp_path.iterdir()) == []
