"""Memory that processes share; imports no torch, for programs that do without it."""

import os
from tempfile import TemporaryFile


def nameless_file() -> int:
    """Return an open file, in memory on Linux, that vanishes with its last user."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fedcore", os.MFD_CLOEXEC)
    with TemporaryFile() as file:
        return os.dup(file.fileno())
