"""Many clients and one server: one after the other, or side by side.

Source:
    Gupta and Raskar, "Distributed Learning of Deep Neural Network over Multiple
    Agents", J. Network and Computer Applications 2018 (``relayed``).
    https://arxiv.org/abs/1810.06060
    Thapa et al., "SplitFed: When Federated Learning Meets Split Learning", AAAI 2022,
    Algorithm 1, SplitFedV1 (``splitfed``). https://arxiv.org/abs/2004.12088

Departures: the paper's server of fronts and server of backs average with the same
function here, over the exact sum of the ring. As the averages of two parts are the
parts of one average, ``splitfed`` gives the bits of FedAvg over the unsplit model.
"""

from collections.abc import Mapping, Sequence

from clients.split.channel import Dial
from clients.split.client import SplitClient
from clients.split.server import SplitServer
from fedcore.errors import ConfigError
from fedcore.params import Params, add, sub
from fedcore.partial import mean_of
from fedcore.strategy import PeerId, Update


def relayed(
    clients: Sequence[SplitClient],
    dial: Dial,
    start: Params,
    steps: int,
    rounds: int = 1,
) -> Params:
    """Train one client after the other; each hands its front on to the next.

    The server's back is shared (``apart=False``).

    Args:
        clients: in the order in which they train; names differ.
        dial: opens a channel to the server.
        start: the model to begin with.
        steps: of each client in a round, >= 1.
        rounds: turns of every client, >= 1.

    Returns:
        The front and head that the last client ends with.

    Raises:
        ConfigError: two clients have one name.
    """
    _check_names(clients)
    params = dict(start)
    own: Params = {}
    for version in range(rounds):
        for client in clients:
            own = client.train(dial, steps, params, version).params
            params |= own
    return own


def splitfed(
    clients: Sequence[SplitClient],
    server: SplitServer,
    dial: Dial,
    steps: int,
    rounds: int = 1,
) -> Params:
    """Train all clients from one model, each with a back of its own, and average.

    Args:
        clients: names differ; each one's examples are its weight.
        server: keeps backs ``apart``; its ``start`` is the model to begin with.
        dial: opens a channel to it.
        steps: of each client in a round, >= 1.
        rounds: averages taken, >= 1.

    Returns:
        The whole model after the last average.

    Raises:
        ConfigError: the server's back is shared, or two clients have one name.
    """
    _check_names(clients)
    if not server.apart:
        raise ConfigError("splitfed needs a server with apart=True")
    examples = {client.peer: client.task.examples for client in clients}
    for version in range(rounds):
        fronts = {
            c.peer: c.train(dial, steps, server.start, version).params for c in clients
        }
        backs = {peer: server.params(peer) for peer in examples}
        front = averaged(server.start, fronts, examples)
        server.start = {
            **server.start,
            **front,
            **averaged(server.start, backs, examples),
        }
    return server.start


def averaged(
    start: Params, trained: Mapping[PeerId, Params], examples: Mapping[PeerId, int]
) -> Params:
    """Return ``start`` moved by the mean of what each peer's training moved.

    Args:
        start: what all began with; may hold more tensors than were trained.
        trained: the same tensors of every peer after training.
        examples: the weight of each peer, >= 1.
    """
    moved = [
        Update(peer, 0, sub(trained[peer], start), examples[peer])
        for peer in sorted(trained)
    ]
    mean = mean_of(moved)
    return add({name: start[name] for name in mean}, mean)


def _check_names(clients: Sequence[SplitClient]) -> None:
    names = [client.peer for client in clients]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"clients need names of their own: {', '.join(names)}")
