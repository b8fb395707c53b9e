"""What must be closed after use, and closes itself at the end of a ``with`` block."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Closing(ABC):
    """A thing whose ``with`` block ends with ``close``, however it is left."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Let go of processes, memory, files; once is enough, twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
