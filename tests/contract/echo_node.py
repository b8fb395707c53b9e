"""A node in a process of its own, to be attacked: echoes, and reports who comes."""

import json
import sys

import trio

from p2p.libp2p.transport import open_libp2p
from p2p.machine import Down
from tests.contract.wires import quick


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(quotas):
    async def echo(peer, body):
        return body

    def report(event):
        say(f"down {event.peer} {event.why}" if isinstance(event, Down) else "up")

    async with open_libp2p(quick(**quotas)) as node:
        node.serve("/echo/1", echo)
        node.watch(report)
        say(node.addresses()[0])
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
