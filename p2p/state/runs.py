"""What runs there are: one register each, written by admins."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedcore.names import PeerId
from p2p.state.bodies import Run, read_as
from p2p.state.registers import Registers
from p2p.state.said import Said, Stamp


@dataclass
class Runs:
    """Run specifications by name."""

    values: Registers[str, Run] = field(default_factory=Registers)

    def take(self, said: Said) -> int:
        """Count an entry of kind RUN; return its lamport number."""
        body = read_as(Run, said.entry)
        self.values.put(body.name, Stamp(body.lamport, said.place), body)
        return body.lamport

    def forget(self, writer: PeerId) -> None:
        """Forget all that was written in the log of ``writer``."""
        self.values.forget(writer)

    def view(self) -> Mapping[str, Run]:
        """Return all runs by name."""
        return self.values.view()
