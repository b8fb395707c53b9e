"""Flower's own programs as children of a test: private folder, ports and keys."""

import datetime
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stage:
    """Starts Flower's programs in a folder of their own, and ends every one of them."""

    def __init__(self, folder):
        self.folder = folder
        self.home, self.cwd = folder / "home", folder / "cwd"
        for made in (self.home, self.cwd):
            made.mkdir()
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        self.env = {**os.environ, **QUIET, "FLWR_HOME": str(self.home), "PATH": path}
        self.env.pop("PYTHONPATH", None)
        self.started = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in reversed(self.started):
            self._signal(process, signal.SIGTERM)
        for process in self.started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            self._signal(process, signal.SIGKILL)  # and what it left in its group
            process.wait()

    def _signal(self, process, number):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    def start(self, name, *words):
        """Start a program in a session of its own; its output goes to a file."""
        with (self.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [str(BIN / words[0]), *map(str, words[1:])],
                cwd=self.cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def call(self, *words, timeout_s=60):
        """Run a program to its end and return what it printed."""
        done = subprocess.run(
            [str(BIN / words[0]), *map(str, words[1:])],
            cwd=self.cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def wait_for_port(self, port, timeout_s=60):
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.2)
        raise AssertionError(f"nothing listens on {port}\n{self.logs()}")

    def logs(self):
        return "\n".join(
            f"== {p.name}\n{p.read_text()[-3000:]}" for p in self.folder.glob("*.log")
        )

    def connect(self, port, certificate=None):
        """Let ``flwr`` find the SuperLink at ``port`` under the name ``loop``."""
        how = (
            f'root-certificates = "{certificate}"' if certificate else "insecure = true"
        )
        (self.home / "config.toml").write_text(
            '[superlink]\ndefault = "loop"\n\n[superlink.loop]\n'
            f'address = "127.0.0.1:{port}"\n{how}\n'
        )

    def finished(self, timeout_s):
        """Wait until the one run has ended; return how, such as ``completed``."""
        until = time.monotonic() + timeout_s
        status = "unknown"
        while time.monotonic() < until:
            listed = json.loads(self.call("flwr", "list", "loop", "--format", "json"))
            status = listed["runs"][0]["status"] if listed["runs"] else "no run"
            if status.startswith("finished"):
                return status.partition(":")[2]
            time.sleep(1)
        return f"still {status}"


def make_keys(folder):
    """Write ca.crt, server.crt and server.key for 127.0.0.1."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), _write_key(folder)
    ca = _certificate("Test CA", ca_key.public_key(), "Test CA", ca_key, ca=True)
    own = _certificate("127.0.0.1", key.public_key(), "Test CA", ca_key, ca=False)
    for name, certificate in (("ca.crt", ca), ("server.crt", own)):
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (folder / name).write_bytes(pem)


def _write_key(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "server.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return key


def _certificate(name, public_key, issuer, issuer_key, *, ca):
    def named(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    host = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([host]), critical=False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def make_node_key(folder, name):
    """Write the key pair of a SuperNode, as ``ssh-keygen`` would."""
    key = ec.generate_private_key(ec.SECP384R1())
    path = folder / name
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    path.with_suffix(".pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
    )
    return path
