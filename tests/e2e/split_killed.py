"""A client process for ``test_split``: trains, and prints the digest of its front."""

import sys
from pathlib import Path

from clients.split.client import SplitClient
from clients.split.cut import Cut
from clients.split.sockets import tcp
from clients.trainers.sgd import SGD
from fedcore.params import digest
from tests.split_cases import start_of, task_of

if __name__ == "__main__":
    port, steps, folder = sys.argv[1:]
    trainer = SGD(lr=0.1, momentum=0.9)
    client = SplitClient(task_of("conv"), Cut(3), trainer, folder=Path(folder))
    done = client.train(tcp("127.0.0.1", int(port)), int(steps), start_of("conv"))
    sys.stdout.write(digest(done.params))
