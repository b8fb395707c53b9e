"""One byte for one number: a sign and the logarithm of its size, right on average.

Source:
    Zelikman et al., "Just One Byte (per gradient)", 2023.
    https://arxiv.org/abs/2306.10015

Notation: sigma = ``sigma``, a power of two; m = the low seven bits of a code; the top
bit is the sign:

    m = 0        0
    m >= 1       sigma * 2^((m - 64) / 6)

So neighbours differ by 12 %, and sizes reach from sigma / 1448 to sigma * 1448. A
number between two neighbours becomes the upper one with the probability that makes
the expectation the number itself; below the least size the lower neighbour is 0.

Departures: the paper's code needs nine bits (255 sizes and a sign), rounds to the
nearest, and is never sent. Sizes here are integers of a table, in units of 2^-32 as
on the ring, because powers and logarithms differ between machines. For sigma below 1
they are rounded to whole units, half to even; ``encode`` knows the rounded sizes.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedcore.errors import ConfigError, ProtocolError
from fedcore.ring import ONE
from fedcore.seeds import words

LEAST, MOST = -16, 19  # exponents of sigma: sizes stay distinct, and below 2^62
TABLE = (  # [m], the size for sigma = 1 in units of 2^-32
    0,
    2_965_821,
    3_329_021,
    3_736_700,
    4_194_304,
    4_707_947,
    5_284_492,
    5_931_642,
    6_658_043,
    7_473_400,
    8_388_608,
    9_415_894,
    10_568_984,
    11_863_283,
    13_316_085,
    14_946_800,
    16_777_216,
    18_831_788,
    21_137_968,
    23_726_566,
    26_632_170,
    29_893_600,
    33_554_432,
    37_663_576,
    42_275_935,
    47_453_133,
    53_264_341,
    59_787_201,
    67_108_864,
    75_327_153,
    84_551_870,
    94_906_266,
    106_528_681,
    119_574_402,
    134_217_728,
    150_654_306,
    169_103_741,
    189_812_531,
    213_057_363,
    239_148_804,
    268_435_456,
    301_308_612,
    338_207_482,
    379_625_062,
    426_114_725,
    478_297_607,
    536_870_912,
    602_617_224,
    676_414_963,
    759_250_125,
    852_229_450,
    956_595_215,
    1_073_741_824,
    1_205_234_447,
    1_352_829_926,
    1_518_500_250,
    1_704_458_901,
    1_913_190_429,
    2_147_483_648,
    2_410_468_894,
    2_705_659_852,
    3_037_000_500,
    3_408_917_802,
    3_826_380_858,
    4_294_967_296,
    4_820_937_788,
    5_411_319_705,
    6_074_001_000,
    6_817_835_604,
    7_652_761_717,
    8_589_934_592,
    9_641_875_577,
    10_822_639_410,
    12_148_002_000,
    13_635_671_208,
    15_305_523_434,
    17_179_869_184,
    19_283_751_154,
    21_645_278_819,
    24_296_004_000,
    27_271_342_415,
    30_611_046_868,
    34_359_738_368,
    38_567_502_308,
    43_290_557_639,
    48_592_008_000,
    54_542_684_831,
    61_222_093_735,
    68_719_476_736,
    77_135_004_616,
    86_581_115_277,
    97_184_015_999,
    109_085_369_661,
    122_444_187_471,
    137_438_953_472,
    154_270_009_232,
    173_162_230_555,
    194_368_031_998,
    218_170_739_323,
    244_888_374_942,
    274_877_906_944,
    308_540_018_463,
    346_324_461_110,
    388_736_063_997,
    436_341_478_646,
    489_776_749_883,
    549_755_813_888,
    617_080_036_927,
    692_648_922_220,
    777_472_127_994,
    872_682_957_291,
    979_553_499_766,
    1_099_511_627_776,
    1_234_160_073_853,
    1_385_297_844_439,
    1_554_944_255_988,
    1_745_365_914_583,
    1_959_106_999_532,
    2_199_023_255_552,
    2_468_320_147_707,
    2_770_595_688_878,
    3_109_888_511_975,
    3_490_731_829_166,
    3_918_213_999_064,
    4_398_046_511_104,
    4_936_640_295_414,
    5_541_191_377_757,
    6_219_777_023_951,
)


class Coded(NamedTuple):
    """Numbers as bytes.

    Attributes:
        codes: uint8 (n,).
        saturated: how many were above the largest size, and became it.
    """

    codes: Tensor
    saturated: int


def encode(values: Tensor, sigma: float, draws: Tensor) -> Coded:
    """Return ``values`` as bytes, so that ``decode`` expects them exactly.

    Args:
        values: real numbers, (n,); those above ``sigma * 2^10.5`` in size are cut.
        sigma: a power of two, 2^-16 to 2^19; see ``sigma_near``.
        draws: float64 (n,) in [0, 1), independent and even; see ``draws``.

    Raises:
        ProtocolError: a value is NaN or infinite.
        ConfigError: ``sigma`` is not one of those.
    """
    sizes = _sizes(sigma).double()  # exact: at most 43 bits and a shift
    if not bool(torch.isfinite(values).all()):
        raise ProtocolError("a number to be sent as a byte is NaN or infinite")
    size = values.double().abs() * ONE
    saturated = int((size > sizes[-1]).sum())
    size = size.clamp(max=float(sizes[-1]))
    low = torch.searchsorted(sizes, size, right=True).sub_(1).clamp_(max=126)
    share = (size - sizes[low]) / (sizes[low + 1] - sizes[low])
    code = low + (draws < share)
    code += 128 * ((values < 0) & (code > 0))
    return Coded(code.to(torch.uint8), saturated)


def decode(codes: Tensor, sigma: float) -> Tensor:
    """Return the numbers that ``codes`` stand for, on the ring, int64 (n,).

    Every byte stands for one; both zeros, 0x00 and 0x80, for 0.

    Raises:
        ProtocolError: ``codes`` are not bytes.
        ConfigError: ``sigma`` is no power of two from 2^-16 to 2^19.
    """
    if codes.dtype != torch.uint8:
        raise ProtocolError(f"codes are {codes.dtype}, not bytes")
    sizes = _sizes(sigma)
    return torch.cat([sizes, -sizes])[codes.long()]


def draws(count: int, *path: str | int) -> Tensor:
    """Return ``count`` even numbers in [0, 1) named by ``path``, float64 (count,)."""
    high = words(count, *path) >> np.uint64(11)
    return torch.from_numpy(high.astype(np.float64) * 2.0**-53)


def sigma_near(size: float) -> float:
    """Return the power of two nearest to ``size`` (> 0) of those that may be sigma.

    Raises:
        ConfigError: ``size`` is not a finite number above 0.
    """
    if not 0 < size < math.inf:
        raise ConfigError(f"sigma must be above 0 and finite, got {size}")
    share, exponent = math.frexp(size)  # size = share * 2^exponent, share >= 1/2
    nearest = exponent - (share < math.sqrt(0.5))
    return math.ldexp(1.0, min(max(nearest, LEAST), MOST))


@lru_cache(maxsize=64)
def _sizes(sigma: float) -> Tensor:
    """Return the size of every m in units of 2^-32, int64 (128,)."""
    share, exponent = math.frexp(sigma) if math.isfinite(sigma) else (0.0, 0)
    if share != 0.5 or not LEAST < exponent <= MOST + 1:
        raise ConfigError(
            f"sigma must be a power of two from 2^{LEAST} to 2^{MOST}, got {sigma}; "
            "sigma_near returns the nearest one"
        )
    shift = exponent - 1
    if shift >= 0:
        return torch.tensor([size << shift for size in TABLE])
    return torch.tensor([_halved(size, -shift) for size in TABLE])


def _halved(size: int, times: int) -> int:
    """Return ``size / 2^times``, half to even."""
    whole, rest = divmod(size, 1 << times)
    half = 1 << (times - 1)
    return whole + (rest > half or (rest == half and whole % 2 == 1))
