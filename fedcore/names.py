"""Names that came from outside and may serve as keys, labels and file names."""

PeerId = str  # of a client, a node of Flower, or a peer of a mesh

MAX_CHARS = 256


def fault_of(name: object) -> str | None:
    """Return what is wrong with ``name``, as the end of a sentence; None if good.

    A good name is text of 1 to 256 printable characters, with no slash of either
    kind and no two dots in a row, so that it can never leave a folder, break a
    log line or fail to encode.
    """
    if type(name) is not str:
        return f"is a {type(name).__name__}, not text"
    if not 0 < len(name) <= MAX_CHARS:
        return f"has {len(name)} characters, not 1 to {MAX_CHARS}"
    if not name.isprintable():
        return "has a character that cannot be printed"
    for part in ("..", "/", "\\"):
        if part in name:
            return f'has "{part}" in it'
    return None


def shown(value: object) -> str:
    """Return ``value`` for a message: printable and at most 40 characters long."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    if not isinstance(value, str | int | float):
        return f"a {type(value).__name__}"[:40]
    text = ascii(value[:40] if isinstance(value, str) else value)
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"
