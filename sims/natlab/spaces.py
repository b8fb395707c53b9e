"""Network namespaces, and commands inside them."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MARK = "fedcore-lab-"  # begins the names of our namespaces; then a process, then a name


def why_not() -> str | None:
    """Return why no lab can be made here; None if one can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "nft", "nsenter"):
        if shutil.which(program) is None:
            return f"no program {program}"
    name = f"{MARK}{os.getpid()}-try"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "this kernel, or container, makes no network namespaces"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


def sweep() -> None:
    """Remove what labs left behind whose process was killed."""
    for path in Path("/run/netns").glob(f"{MARK}*-*"):
        pid = path.name.removeprefix(MARK).partition("-")[0]
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


def settled(space: str, timeout_s: float = 10.0) -> None:
    """Wait until the links of a namespace that are set up work.

    Raises:
        RuntimeError: one does not work after ``timeout_s`` seconds.
    """
    until_s = time.monotonic() + timeout_s
    while not all(map(_works, json.loads(run(["ip", "-n", space, "-j", "addr"])))):
        if time.monotonic() > until_s:
            raise RuntimeError(f"a link of {space} does not work")
        time.sleep(0.02)


def _works(link: Mapping[str, Any]) -> bool:
    """Return whether ``link``, if it is up, has a far end and its addresses."""
    known = [row for row in link["addr_info"] if row["scope"] == "global"]
    tentative = any(row.get("tentative") for row in known)
    able = link["operstate"] in ("UP", "UNKNOWN") and not tentative
    return able or "UP" not in link["flags"]


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
