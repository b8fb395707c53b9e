"""Whether answers count alike or by their number of examples."""

from typing import Literal, get_args

from fedcore.config import nearest
from fedcore.errors import ConfigError

Shares = Literal["even", "examples"]


def check_shares(shares: str) -> None:
    """Refuse what is no way to share.

    Raises:
        ConfigError: ``shares`` is unknown; says which are known.
    """
    known = get_args(Shares)
    if shares not in known:
        raise ConfigError(f'shares: no "{shares}"; {nearest(str(shares), known)}')


def relative_size(shares: Shares, examples: int, mean: float) -> float:
    """Return the weight of an answer among others: 1 if all are alike.

    Args:
        shares: ``"even"`` gives 1 to all.
        examples: of the answer.
        mean: mean examples of all with whom it shares, > 0.
    """
    return 1.0 if shares == "even" else examples / mean
