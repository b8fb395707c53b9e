"""Text to token numbers and back."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.tasks.checks import users_code
from fedcore.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Words:
    """A tokenizer with the two tokens that rows of numbers need.

    Attributes:
        tokenizer: a ``tokenizers.Tokenizer``; each text is read alone, since its
            threads would not survive a fork.
        end: number of the token that ends an answer; None if the model has none.
        pad: number of the token that fills rows up.
    """

    tokenizer: Any
    end: int | None
    pad: int

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return int(self.tokenizer.get_vocab_size())

    def numbers(self, text: str, *, marked: bool = False) -> list[int]:
        """Return the token numbers of ``text``.

        Args:
            text: any text; "" has none.
            marked: with the model's marks of begin and end, as classifiers want them.

        Raises:
            ConfigError: it has bytes that are no Unicode, as a prompt from a shell can.
        """
        try:
            ids = self.tokenizer.encode(text, add_special_tokens=marked).ids
        except TypeError as error:  # half a character is no str to tokenizers
            raise ConfigError(f"{text!r:.40} is no Unicode text") from error
        return [int(i) for i in ids]

    def text(self, numbers: Sequence[int]) -> str:
        """Return the text of token ``numbers``, without marks."""
        return str(self.tokenizer.decode(list(numbers)))


def words_in(folder: Path) -> Words:
    """Return the tokenizer of a Hugging Face ``folder``.

    Raises:
        ConfigError: the folder has none that is written as ``tokenizer.json``.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(
            f"{folder} has no tokenizer.json: save the model's tokenizer there with "
            "`AutoTokenizer.from_pretrained(...).save_pretrained(...)`"
        )
    with users_code(f"{path} cannot be read", "Save the tokenizer again."):
        tokenizer: Any = Tokenizer.from_file(str(path))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        end, pad = (_number(config.get(f"{name}_token_id")) for name in ("eos", "pad"))
    tokenizer.no_truncation()  # rows are cut and filled up by us
    tokenizer.no_padding()
    return Words(tokenizer, end, pad=(end or 0) if pad is None else pad)


def _number(found: object) -> int | None:
    """Return the first number of ``found``: Llama 3 names several ends.

    Early Llamas write -1 where they have none.
    """
    first = found[0] if isinstance(found, list) and found else found
    return first if isinstance(first, int) and first >= 0 else None
