"""The node's page, asked by hand and looked at in a real browser."""

import http.client
import json
import shutil
import socket
import struct
import subprocess

import pytest

from clients.peer.control import ask
from tests.nodes import HERE, QUIET, Node, all_level, stop_all

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two nodes; the second has a name that would run code in a careless page."""
    folder = tmp_path_factory.mktemp("page")
    ann, eve = Node(folder / "ann"), Node(folder / "eve")
    try:
        ann.run("init", "home", *HERE, *QUIET, "--set", "name=ann")
        ann.up()
        evil = "<img src=x onerror=document.title='taken'>"
        words = [*HERE, *QUIET, "--set", f"name={evil}"]
        eve.run("join", ann.run("invite"), *words)
        eve.up()
        all_level([ann, eve])
        ann.until(lambda: ann.status()["peers"][0]["channel"], "a channel")
        yield ann, eve
    finally:
        stop_all([ann, eve])


def asked(node, path, host=None, token=None, method="GET"):
    """Return the code, the headers and the body of an answer of the page."""
    address, _, real = node.status()["page"].partition("/#")
    place = address.removeprefix("http://")
    connection = http.client.HTTPConnection(place, timeout=20)
    words = {"Host": host or place}
    words |= {"Authorization": f"Bearer {real if token is None else token}"}
    connection.request(method, path, headers=words)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def test_the_owner_reads_the_status(pair):
    code, headers, body = asked(pair[0], "/api/status")
    assert code == 200
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert json.loads(body)["root"] == pair[0].status()["root"]


@pytest.mark.parametrize("path", ["/api/status", "/metrics"])
@pytest.mark.parametrize("token", ["", "wrong", "é"])
def test_others_read_nothing(pair, path, token):
    code, _, body = asked(pair[0], path, token=token.encode().decode("latin-1"))
    assert (code, pair[0].home.name in body.decode()) == (401, False)


def test_a_site_that_points_its_name_here_is_refused(pair):
    assert asked(pair[0], "/api/status", host="evil.example")[0] == 421
    assert asked(pair[0], "/", host="evil.example:80")[0] == 421


def test_nothing_else_is_served(pair):
    for path in ("/../token", "/key", "/page.html", "/%2e%2e/key"):
        assert asked(pair[0], path)[0] == 404
    assert asked(pair[0], "/api/status", method="POST")[0] == 501


def test_prometheus_reads_the_figures(pair):
    text = asked(pair[0], "/metrics")[2].decode()
    rows = [line for line in text.splitlines() if not line.startswith("#")]
    names = {row.split("{")[0].split(" ")[0] for row in rows}
    assert {"fedcore_members", "fedcore_state", "fedcore_rtt_seconds"} <= names
    assert 'fedcore_state{state="direct"} 1' in rows
    for row in rows:
        float(row.rpartition(" ")[2])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_the_mesh(pair, tmp_path):
    ann, eve = pair
    ask(ann.home, {"do": "found", "run": "<i>r", "spec": "", "origin": ""})
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1200,900",
    ]
    flags += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=6000"]
    shown = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", ann.status()["page"]],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert "<title>ann: direct</title>" in shown
    assert "&lt;img src=x" in shown
    assert "<img" not in shown
    assert ann.status()["root"][:16] in shown
    assert eve.status()["peer"][-8:] in shown
    assert "direct (same network)" in shown
    assert "&lt;i&gt;r: 0 additions, 0 of them ours" in shown
    status = json.loads(asked(ann, "/api/status")[2])
    assert f"{status['entries']} signed entries of 2 writers" in shown
    assert status["history"]["entries"][-1] == status["entries"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_without_the_token_is_told_what_to_do(pair, tmp_path):
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu"]
    flags += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=3000"]
    shown = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", pair[0].status()["page"].partition("#")[0]],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert "fedcore peer status" in shown
    assert pair[0].status()["root"][:16] not in shown


def test_a_browser_that_is_closed_leaves_no_trace(pair):
    ann = pair[0]
    place, _, token = ann.status()["page"].removeprefix("http://").partition("/#")
    host, _, port = place.partition(":")
    lines = f"Host: {place}\r\nAuthorization: Bearer {token}\r\n\r\n"
    for _ in range(5):
        with socket.create_connection((host, int(port))) as sock:
            linger = struct.pack("ii", 1, 0)  # closed with a reset
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            sock.sendall(f"GET /api/status HTTP/1.1\r\n{lines}".encode() * 50)
    assert asked(ann, "/api/status")[0] == 200
    assert "Exception occurred" not in ann.log()
