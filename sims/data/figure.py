"""The figure of docs/tasks.md: who holds what under each partitioner.

Draws it again: ``python -m sims.data.figure docs/img/partitions.svg``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sims.data.deal import Rows
from sims.data.partition import (
    IID,
    ClassBlocks,
    ClassDraw,
    Classes,
    DirichletLabels,
    DirichletSizes,
    DualDirichlet,
    Partition,
)

CLIENTS, PER_CLASS, SEED = 10, 200, 1
PANELS: Sequence[tuple[str, Partition]] = (
    ("iid", IID()),
    ("dirichlet, alpha = 0.5", DirichletLabels(0.5)),
    ("dirichlet, alpha = 0.1", DirichletLabels(0.1)),
    ("dirichlet-sizes, alpha = 0.5", DirichletSizes(0.5)),
    ("classes, per_client = 2", Classes(2)),
    ("class-draw, 3 to 5", ClassDraw(3, 5)),
    ("dual-dirichlet", DualDirichlet(10.0, 0.5)),
    ("class-blocks, 3", ClassBlocks(3)),
)
COLOURS = [f"hsl({36 * c},55%,{45 + 20 * (c % 2)}%)" for c in range(10)]
WIDTH, ROW, LEFT, TOP = 200, 12, 10, 20  # of one panel, in pixels


def drawn() -> str:
    """Return the figure as SVG: a bar for each client, a colour for each class."""
    labels = np.repeat(np.arange(10), PER_CLASS)
    panels = [
        _panel(title, partition.split(labels, None, CLIENTS, SEED), labels, i)
        for i, (title, partition) in enumerate(PANELS)
    ]
    wide, high = 4 * (WIDTH + 2 * LEFT), 2 * _panel_height()
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" '
        f'width="{wide}" height="{high}" font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, *panels, "</svg>", ""])


def _panel_height() -> int:
    return TOP + CLIENTS * ROW + 14


def _panel(title: str, parts: Sequence[Rows], labels: Rows, place: int) -> str:
    """Return one panel; the longest of its bars has the full width."""
    x, y = (place % 4) * (WIDTH + 2 * LEFT) + LEFT, (place // 4) * _panel_height()
    scale = WIDTH / max(map(len, parts))
    bars = [f'<text x="{x}" y="{y + 14}" fill="#888">{title}</text>']
    for client, rows in enumerate(parts):
        start = float(x)
        for c, count in enumerate(np.bincount(labels[rows], minlength=10)):
            if count:
                bars.append(
                    f'<rect x="{start:.1f}" y="{y + TOP + client * ROW}" '
                    f'width="{count * scale:.1f}" height="{ROW - 2}" '
                    f'fill="{COLOURS[c]}"/>'
                )
            start += count * scale
    return "\n".join(bars)


def main() -> int:
    """Write the figure to the path given; return 0."""
    Path(sys.argv[1]).write_text(drawn(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
