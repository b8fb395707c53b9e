"""What strangers and members gone bad can do to real nodes: refuse, and be named.

Two honest nodes exchange content and state all the while; they stay as small as they
were, agree, and hold what they would have held without the attack.
"""

import os
import random
import socket
import time
import urllib.request
from concurrent.futures import Future
from contextlib import ExitStack

import pytest

from clients.peer import home as homes
from clients.peer.actions import Actions
from clients.peer.control import ask
from fedcore.errors import FedError, ProtocolError
from fedcore.wire import varint
from p2p.content.asks import CHUNK, MANIFEST
from p2p.identity.invites import Terms
from p2p.identity.invites import invite as invite_of
from p2p.identity.keys import Key
from p2p.libp2p.config import Libp2pConfig
from p2p.libp2p.thread import MeshThread
from p2p.members.card import About, Beat, Card, new_card
from p2p.members.gossip import Gossip
from p2p.nat.grants import WANTED, read_grant
from p2p.nat.whoami import read_seen
from p2p.state.bodies import Checkpoint, Count
from p2p.state.chain import Entry, Kind, Tip, first_link, writer_of
from p2p.state.encoding import Item
from p2p.state.messages import Sync, encode
from p2p.state.segments import Segment
from tests.hostile import (
    MOST_GROWTH_BYTES,
    Crowd,
    Pair,
    Rogue,
    garbage,
    hello_of_tls,
    refused,
    size_bytes,
)
from tests.nodes import HERE, QUIET, Node, stop_all

pytestmark = pytest.mark.slow
TOPICS = ("/state/1", "/pulse/1", "/swarm/1", "/find/1", "/direct/1", "/hello/1")
NOTHING = "0" * 64
HERE_TCP = "/ip4/127.0.0.1/tcp/0"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    ann, bob = Node(folder / "ann"), Node(folder / "bob")
    try:
        ann.run("init", "home", *HERE, *QUIET, "--set", "name=ann")
        ann.up()
        bob.run("join", ann.run("invite"), *HERE, *QUIET, "--set", "name=bob")
        bob.up()
        ann.until(lambda: "bob" in ann.paths() and "ann" in bob.paths(), "both here")
        found = Pair(ann, bob, folder)
        found.ann.until(found.level, "both are level")
        for _ in range(3):  # what is needed once is loaded
            found.exchange()
        yield found
    finally:
        stop_all([ann, bob])


@pytest.fixture(scope="module")
def invite(pair):
    return pair.ann.run("invite")


@pytest.fixture(scope="module")
def eve(pair, invite, tmp_path_factory):
    with Rogue(tmp_path_factory.mktemp("eve") / "home", invite) as rogue:
        rogue.meet(*pair.both)
        pair.ann.until(pair.level, "both know eve")
        yield rogue


# ---- strangers -----------------------------------------------------------------------


@pytest.mark.parametrize("port", ["control", "data", "page"])
def test_noise_and_silence_at_a_port_keep_nobody_out(pair, port):
    import json

    number = json.loads((pair.ann.home / "ports.json").read_text())[port]
    with pair.unharmed(), ExitStack() as stack:
        silent = stack.enter_context(Crowd(number))
        silent.come(700)
        half = stack.enter_context(Crowd(number))
        half.come(300, hello_of_tls()[:90])
        noisy = stack.enter_context(Crowd(number))
        for noise in garbage():
            noisy.come(5, noise)
        for byte in b"GET /":
            silent.say(bytes([byte]))
        time.sleep(1)
        assert page_of(pair.ann).startswith(b"<!")


def page_of(node):
    """Return the page, if it comes soon."""
    address = node.status()["page"].partition("#")[0]
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer.read()


def test_a_relay_goes_on_under_noise_and_silence(tmp_path):
    words = ["--listen", "127.0.0.1", "--port", "0", "--data-port", "0"]
    relay = Node(tmp_path / "relay")
    relay.begin("relay", *words)
    try:
        relay.until(lambda: "find.relays=" in relay.log(), "it relays")
        address = relay.log().split("relay at ")[1].split()[0]
        data = relay.log().split("for data at ports ")[1].splitlines()[0].split(", ")
        first, eyes = size_bytes(relay), data[1:]
        with ExitStack() as stack:
            for number in map(int, [address.split("/")[4], *data]):
                crowd = stack.enter_context(Crowd(number))
                crowd.come(1000)
                for noise in garbage():
                    stack.enter_context(Crowd(number)).come(5, noise)
            time.sleep(2)
            with MeshThread(Libp2pConfig(Key.fresh(), [HERE_TCP])) as guest:
                peer = guest.connect([address], 10).result(15)
                grant = read_grant(guest.ask(peer, "/splice/1", WANTED, 10).result(15))
                assert grant.addresses
            for eye in map(int, eyes):  # from another machine, as it were
                with socket.create_connection(
                    ("127.0.0.1", eye), 5, ("127.0.0.2", 0)
                ) as sock:
                    assert read_seen(sock.recv(100)).host == "127.0.0.2"
        relay.until(lambda: size_bytes(relay) - first < MOST_GROWTH_BYTES, "small", 10)
    finally:
        stop_all([relay])


def test_a_stranger_gets_no_further_than_the_door(pair):
    ann, peer = pair.ann, pair.ann.status()["peer"]
    with MeshThread(Libp2pConfig(Key.fresh(), [HERE_TCP])) as stranger:
        stranger.serve("/hello/1", lambda *_: stranger.ask("nobody", "/x/1", b"", 1))
        stranger.connect(ann.status()["addresses"], 10).result(15)
        with pair.unharmed():
            for topic in TOPICS[:-1]:
                why = refused(stranger.ask(peer, topic, b"x", 10))
                assert "come past the door" in why
            until_s, whys = time.monotonic() + 4, set()
            while time.monotonic() < until_s:
                body = random.randbytes(random.choice((0, 60, 1 << 20)))
                whys.add(refused(stranger.ask(peer, "/hello/1", body, 10)))
            assert any("too many attempts" in why for why in whys)
        assert ann.status()["counts"]["turned-away"] > 5
        assert "come past the door" in ann.notes()
        assert stranger.me not in str(ann.status()["peers"])


# ---- a member gone bad ---------------------------------------------------------------


def test_floods_of_a_member_make_only_itself_wait(pair, eve):
    rng = random.Random(3)
    noise = [rng.randbytes(size) for size in (0, 1, 60_000, 1 << 20)]
    items = [
        [Item(writer_of(rng.randbytes(32)), 9, bytes(16)) for _ in range(4000)]
        for _ in range(3)
    ]
    dear = [encode(Sync(rng.randbytes(32), None, some)) for some in items]
    with pair.unharmed():
        for topic in (*TOPICS, "/nothing/1", "/tunnel/1"):
            for node in pair.both:
                for body in noise:
                    eve.tell(node, topic, body)
        until_s = time.monotonic() + 6
        while time.monotonic() < until_s:
            answers = []
            for node in pair.both:
                ask_it, topic = eve.channel(node).ask, rng.choice(TOPICS)
                answers += [ask_it("/state/1", rng.choice(dear), 10) for _ in range(4)]
                answers += [ask_it(topic, rng.choice(noise), 10) for _ in range(100)]
            for answer in answers:
                answer.exception(20)
    pair.told("unknown kind")
    pair.told("gossip of 1048576 bytes")


def test_news_that_nobody_signed_are_refused_by_name(pair, eve):
    entry = Entry(Kind.COUNT, Count("votes", 5).encode())
    good = eve.segment(entry)
    honest = pair.bob.status()["peer"]
    tip = Tip(0, first_link(eve.home.network, honest))
    theirs = Segment(honest, 0, tip.link[:16], (entry,), good.rest)
    news = eve.news(good)
    with pair.unharmed():
        for at in range(34, len(news)):
            mutated = bytearray(news)
            mutated[at] ^= 1 << at % 8
            for node in pair.both:
                eve.tell(node, "/state/1", bytes(mutated))
        other = Key.fresh()
        for bad in (eve.segment(entry, key=other), theirs):
            for node in pair.both:
                eve.tell(node, "/state/1", eve.news(bad))
        pair.told("did not sign")


def test_cards_and_beats_in_the_names_of_others_are_refused(pair, eve):
    honest, key = pair.bob.status()["peer"], Key.fresh()
    mine = new_card(eve.home.key, b"12345678", (1 << 48) - 1, bytes(16), About())
    stranger = new_card(key, b"12345678", 7, bytes(16), About(name="ann"))
    raw = bytearray(mine.raw)
    raw[:32] = new_card(key, b"12345678", 1, bytes(16), About()).raw[:32]
    with pair.unharmed():
        beat = Beat(mine.id, 0, bytes(16))
        told = Gossip(((mine, beat), (stranger, Beat(stranger.id, 0, bytes(16)))))
        for node in pair.both:
            for _ in range(30):
                eve.tell(node, "/pulse/1", told.encode())
            forged = Gossip(((mine, beat),)).encode().replace(mine.raw, bytes(raw))
            eve.tell(node, "/pulse/1", forged)
            ahead = Gossip(beats=(Beat(mine.id, 500, os.urandom(16)),))
            eve.tell(node, "/pulse/1", ahead.encode())
        pair.told("did not sign this card")
        pair.told("forged sign of life")
    rows = pair.ann.status()["peers"]
    assert honest in {row["peer"] for row in rows if row["alive"]}
    assert key.peer not in {row["peer"] for row in rows}


def test_content_that_cannot_be_had_keeps_nobody_from_the_rest(pair, eve):
    ids = ["a" * 200, "bafkrei" + "a" * 52, "x", "bafkrei" + "b" * 52]
    points = [Checkpoint("bad", n, cid, 1 << 50, NOTHING) for n, cid in enumerate(ids)]
    said = [(Kind.CHECKPOINT, point.encode()) for point in points]
    with pair.unharmed(entries=len(said), shares=len(said)):
        eve.write(*said)
        pair.told("is not a content id")
        name = f"later {len(pair.names)}"
        file = pair.folder / name
        file.write_bytes(os.urandom(1000))
        asked = {"do": "put", "file": str(file), "name": name}
        cid = ask(pair.ann.home, asked)["cid"]
        pair.names.append(name)

        def fetched():
            rows = pair.bob.status()["contents"]
            return any(row["cid"] == cid and row["here"] for row in rows)

        pair.bob.until(fetched, "bob keeps what ann has put", 20)
        for word in ("../../x", "/etc/passwd", "a\0b", "a" * 10_000_000):
            with pytest.raises(FedError):
                ask(pair.ann.home, {"do": "get", "content": word, "out": None})


@pytest.mark.parametrize(
    ("kind", "word"), [(CHUNK, "bad-chunk"), (MANIFEST, "bad-manifest")]
)
def test_who_sends_bad_content_is_named(kind, word, pair, invite, tmp_path):
    with Rogue(tmp_path / "liar", invite, name="liar") as liar:
        serving = liar.node.member.library.swarm._serving
        honest = serving._body

        def lying(ask):
            body = bytearray(honest(ask))
            body[-1] ^= 1
            return bytes(body) if ask.kind == kind else honest(ask)

        serving._body = lying
        liar.meet(*pair.both)
        pair.ann.until(pair.level, "both know the liar")
        file = tmp_path / f"lie {kind}"
        file.write_bytes(os.urandom(600_000))
        asked = {"do": "put", "file": str(file), "name": file.name}
        with pair.unharmed(entries=1, shares=1):
            Actions(liar.node).do(asked, lambda _: None)
            pair.told(word)
        notes = ask(pair.ann.home, {"do": "notes"})["notes"]
        assert liar.me in {note["peer"] for note in notes if note["kind"] == word}
        rows = pair.bob.status()["contents"]
        assert [r["here"] for r in rows if r["name"] == file.name] == [False]


def test_endless_new_logs_of_a_member_cost_little(pair, eve):
    logs = eve.openings(600)
    with pair.unharmed(entries=len(logs)):
        for start in range(0, len(logs), 100):
            news = eve.news(*logs[start : start + 100])
            for node in pair.both:
                eve.tell(node, "/state/1", news)
            time.sleep(0.3)


def test_names_and_reasons_reach_no_terminal_as_codes(pair, eve):
    code = b"\x1b[2J"
    point = Checkpoint("aXXXXb", 0, "aXXXXb", 5, NOTHING)
    bad = point.encode().replace(b"XXXX", code)
    blank = Card(eve.me, b"12345678", 9, bytes(16), About(name="aXXXXb"))
    raw = blank.raw.replace(b"XXXX", code)
    raw += eve.home.key.sign("fedcore/card/1", raw)
    word = bytes([1]) + varint(len(raw)) + raw + bytes(18) + bytes(2)
    with pair.unharmed(entries=2):
        eve.write((Kind.CHECKPOINT, bad), (Kind.CHECKPOINT, os.urandom(60)))
        with MeshThread(Libp2pConfig(Key.fresh(), [HERE_TCP])) as stranger:
            stranger.serve("/hello/1", refusing("a\x1b[2Jb\x07\r\n"))
            for node in pair.both:
                eve.tell(node, "/pulse/1", word)
                stranger.connect(node.status()["addresses"], 10).result(15)
            pair.told("refused us")
            pair.told("cannot be printed")
    for action in ("ls", "log", "peers", "status"):
        for more in ((), ("--json",)):
            text = pair.ann.run(action, *more)
            assert all(c.isprintable() or c == "\n" for c in text), action
    assert "a[2Jb" not in pair.ann.run("ls")


def refusing(why):
    def refuse(*_):
        answer = Future()
        answer.set_exception(ProtocolError(why))
        return answer

    return refuse


def test_a_name_like_an_id_does_not_stand_for_it(pair, invite, tmp_path):
    bob = pair.bob.status()["peer"]
    with Rogue(tmp_path / "mal", invite, name=bob) as mal:
        mal.meet(pair.ann)
        named = lambda: bob in {p["name"] for p in pair.ann.status()["peers"]}  # noqa: E731
        pair.ann.until(named, "mal is known by bob's id")
        assert (
            ask(pair.ann.home, {"do": "ping", "peer": bob, "count": 1})["peer"] == bob
        )
    with Rogue(tmp_path / "mel", invite, name=bob[-8:]) as mel:
        mel.meet(pair.ann)
        named = lambda: bob[-8:] in {p["name"] for p in pair.ann.status()["peers"]}  # noqa: E731
        pair.ann.until(named, "mel is known by the end of bob's id")
        with pytest.raises(FedError, match="several peers"):
            ask(pair.ann.home, {"do": "ping", "peer": bob[-8:], "count": 1})


def test_clocks_apart_are_named_and_an_old_invite_lets_nobody_in(pair, tmp_path):
    now_s, day_s = time.time(), 86_400
    first = homes.load(pair.ann.home)
    ways = pair.ann.status()["addresses"]
    fresh = invite_of(first.proof, first.key, Terms("peer", day_s, ways), now_s)
    with Rogue(tmp_path / "ada", fresh, ahead_s=1.5 * day_s) as ada:
        ada.meet(pair.ann)
        pair.ann.until(lambda: "one of the two is wrong" in pair.ann.notes(), "told")
        with pair.unharmed():
            time.sleep(1)
    made_s = now_s - 5 * day_s
    stale = invite_of(first.proof, first.key, Terms("peer", day_s, ways), made_s)
    with Rogue(tmp_path / "old", stale, came_s=made_s + 5) as old:
        with pair.unharmed():
            pair.ann.until(lambda: "ask for a new invite" in pair.ann.notes(), "told")
        assert old.me not in pair.ann.status()["peers"]
        assert not old.node.member.door.members()


def test_two_stories_of_a_member_freeze_its_log_alike(pair, invite, tmp_path):
    with Rogue(tmp_path / "mal", invite, name="mal") as mal:
        mal.meet(*pair.both)
        pair.ann.until(pair.level, "both know mal")
        stories = [Entry(Kind.COUNT, Count("votes", n).encode()) for n in (1, 1000)]
        for node, story in zip(pair.both, stories, strict=True):
            mal.tell(node, "/state/1", mal.news(mal.segment(story)))
        time.sleep(0.3)
    pair.told("told two stories")
    pair.exchange()
    pair.ann.until(pair.level, "both are level")
    for node in pair.both:
        assert [mal.me in words for words in node.status()["forks"]] == [True]
        assert node.ask("verify")["good"]
