"""The engines of the simulation benchmark: ours, and those we compare with."""

from sims.bench.process import Peer

OURS = {
    1: Peer("fedcore, 1 worker", "sims.bench.peers.ours", ["1"]),
    2: Peer("fedcore, 2 workers", "sims.bench.peers.ours", ["2"]),
}
LOOP = Peer("plain loop", "sims.bench.peers.torch_loops", ["loop"])
LOOP_2 = Peer("plain loop, 2 processes", "sims.bench.peers.torch_loops", ["loop-2"])
VMAP = Peer("vmap", "sims.bench.peers.torch_loops", ["vmap"])
VMAP_2 = Peer("vmap, 2 processes", "sims.bench.peers.torch_loops", ["vmap-2"])
PFL = Peer("pfl", "sims.bench.peers.pfl_engine", needs=["pfl"])
FEDJAX = Peer(
    "fedjax",
    "sims.bench.peers.fedjax_engine",
    needs=["fedjax"],
    note="XLA takes more than one core",
)
FLOWER = Peer(
    "flower+ray",
    "sims.bench.peers.flower_engine",
    needs=["flwr", "ray"],
    note="one actor per core",
)

ALONE = (LOOP, VMAP, PFL)  # one process, one thread: compared with one worker
WIDE = (LOOP_2, VMAP_2, FEDJAX, FLOWER)  # compared with two workers
OTHERS = (*ALONE, *WIDE)
