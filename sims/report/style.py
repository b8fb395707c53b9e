"""The style sheet of report pages: light and dark, colours by CSS variables."""

from collections.abc import Sequence

# Chart colours, told apart by the colour-blind too, in the order of use.
LIGHT = ("#2a78d6", "#eb6834", "#1baf7a", "#c98500", "#4a3aa7", "#e34948")
DARK = ("#4a97ea", "#e8743f", "#24b583", "#d9a520", "#9d94ec", "#ea6b6b")

_RULES = """
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem;
  font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page) }
h1 { font-size: 1.6rem; margin: 0 0 .2rem }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .8rem }
h3 { font-size: 1rem; margin: 0 }
p { margin: .15rem 0; color: var(--soft) }
.facts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.2rem 0 }
.facts div { background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; padding: .55rem .9rem; min-width: 8rem }
.facts b { display: block; font-size: 1.25rem; font-weight: 600 }
.facts span { color: var(--soft); font-size: .85rem }
.charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(30rem, 100%), 1fr)) }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; padding: .9rem 1rem .6rem }
figure p { font-size: .85rem }
svg { width: 100%; height: auto; display: block; margin-top: .4rem }
svg text { font-size: 12px; fill: var(--soft) }
.grid { stroke: var(--rule); stroke-width: 1 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round }
.d1 { stroke-dasharray: 7 4 }
.d2 { stroke-dasharray: 2 3 }
.dot { fill-opacity: 0 }
.dot:hover { fill-opacity: 1 }
.key { display: inline-block; font-size: .85rem; color: var(--soft);
  margin-right: 1rem }
.key i { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin-right: .35em }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .88rem;
  font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .25rem .7rem; white-space: nowrap;
  border-bottom: 1px solid var(--rule) }
th:first-child, td:first-child { text-align: left }
th { color: var(--soft); font-weight: 500 }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: .8rem 1rem; overflow-x: auto; font-size: .85rem }
summary { cursor: pointer; margin: .6rem 0 }
"""

_LIGHT = ("page:#f7f7f5", "card:#ffffff", "ink:#1c1c1a", "soft:#63635e", "rule:#e2e2dd")
_DARK = ("page:#161615", "card:#20201f", "ink:#f0f0ec", "soft:#a5a59e", "rule:#383835")


def style() -> str:
    """Return the style sheet; ``.c0`` strokes, ``.f0`` fills and ``.b0`` backs."""
    marks = "".join(
        f".c{i}{{stroke:var(--c{i})}}.f{i}{{fill:var(--c{i})}}"
        f".b{i}{{background:var(--c{i})}}"
        for i in range(len(LIGHT))
    )
    return (
        f":root{{color-scheme:light dark;{_variables(_LIGHT, LIGHT)}}}"
        "@media(prefers-color-scheme:dark)"
        f"{{:root{{{_variables(_DARK, DARK)}}}}}{_RULES}{marks}"
    )


def _variables(named: Sequence[str], colors: Sequence[str]) -> str:
    numbered = [f"c{i}:{color}" for i, color in enumerate(colors)]
    return "".join(f"--{pair};" for pair in [*named, *numbered])
