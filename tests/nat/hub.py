"""A public host of the lab: passes on signalling, answers whoami, splices.

It stands in for the transport's relay. ``python -m tests.nat.hub NAME IP``; ready
when it has said so. Every line is one JSON object with "to" and, added here, "from".
"""

import base64
import json
import socketserver
import sys
import threading
import time

from p2p.machine import Answer, Asked
from p2p.nat.addresses import Address
from p2p.nat.berths import SpliceDesk
from p2p.nat.grants import Warden
from p2p.nat.relay import SpliceRelay
from p2p.nat.whoami import WhoamiService

SIGNALS, WHOAMI, SPLICE = 4002, 4003, 4004


class Hub(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, name: str, ip: str, desk: SpliceDesk) -> None:
        super().__init__((ip, SIGNALS), Lines)
        self.name, self.desk = name, desk
        self.writers: dict[str, Lines] = {}
        self.lock = threading.Lock()


class Lines(socketserver.StreamRequestHandler):
    server: Hub

    def handle(self) -> None:
        me = json.loads(self.rfile.readline())["name"]
        with self.server.lock:
            self.server.writers[me] = self
        for line in self.rfile:
            self.pass_on({**json.loads(line), "from": me})
        with self.server.lock:
            if self.server.writers.get(me) is self:
                del self.server.writers[me]

    def pass_on(self, message: dict[str, object]) -> None:
        to = self.server.writers.get(str(message["to"]))
        if message["to"] == self.server.name:
            self.say(self.served(message))
        elif message["kind"] == "dial":
            kind = "dialled" if to else "not-dialled"
            self.say({**message, "kind": kind, "from": message["to"]})
        elif to is not None:
            to.say(message)

    def served(self, message: dict[str, object]) -> dict[str, object]:
        body = base64.b64decode(str(message["body"]))
        asked = Asked(str(message["from"]), str(message["topic"]), body, 1)
        answer = self.server.desk.step(time.monotonic(), asked)[0]
        assert isinstance(answer, Answer)
        text = base64.b64encode(answer.body).decode()
        return {**message, "kind": "answer", "body": text, "from": self.server.name}

    def say(self, message: dict[str, object]) -> None:
        try:
            with self.server.lock:
                self.wfile.write(json.dumps(message).encode() + b"\n")
        except OSError:  # gone
            return


def main(name: str, ip: str) -> None:
    warden = Warden(name.encode().ljust(32, b"."))
    with WhoamiService(ip, WHOAMI), SpliceRelay(warden, ip, SPLICE) as relay:
        desk = SpliceDesk(warden, (Address(ip, SPLICE),), time.time)
        with Hub(name, ip, desk) as hub:
            threading.Thread(target=hub.serve_forever, daemon=True).start()
            sys.stdout.write('{"event": "ready"}\n')
            sys.stdout.flush()
            for _ in sys.stdin:  # every line asks for the tally
                tally = relay.tally()
                words = {"opened": tally.opened, "bytes": tally.bytes}
                sys.stdout.write(json.dumps(words) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
