"""Network namespaces, and commands inside them."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def why_not() -> str | None:
    """Return why no lab can be made here; None if one can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "nft", "nsenter"):
        if shutil.which(program) is None:
            return f"no program {program}"
    name = f"fc{os.getpid()}-try"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "this kernel, or container, makes no network namespaces"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


def sweep() -> None:
    """Remove what labs left behind whose process was killed."""
    for path in Path("/run/netns").glob("fc*-*"):
        pid = path.name[2:].partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True)


def forward(space: str, version: int) -> None:
    """Let a namespace pass on what is not for itself."""
    switches = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
    command = f"echo 1 >/proc/sys/net/{switches[version]}"
    run(inside(space, ["sh", "-c", command]))


def inside(space: str, command: Sequence[str]) -> list[str]:
    """Return the command that runs ``command`` in a namespace, as one process."""
    return ["nsenter", f"--net=/run/netns/{space}", "--", *command]


def ip(space: str, *lines: str) -> None:
    """Run lines of ``ip`` in a namespace, or in none."""
    where = ["-n", space] if space else []
    run(["ip", *where, "-batch", "-"], "\n".join(lines) + "\n")


def nft(space: str, text: str) -> None:
    """Load nftables rules in a namespace."""
    run(inside(space, ["nft", "-f", "-"]), text)


def run(command: Sequence[str], text: str = "", timeout_s: float = 30) -> str:
    """Run ``command`` to its end; return what it says."""
    done = subprocess.run(
        command, input=text, text=True, capture_output=True, timeout=timeout_s
    )
    if done.returncode:
        words = " ".join(command)
        raise RuntimeError(f"{words}: {done.stderr.strip()} {done.stdout.strip()}")
    return done.stdout
