"""The data plane: TLS 1.3 over any connected TCP socket, pinned to peer ids."""
