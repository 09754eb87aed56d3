"""Numbers and names as a page shows them.

Files hold fractions and plain units; a page shows percent, ms, G, M and MB. A number that is not known is
an en dash. Everything a person could have named passes through `escape` on its way into HTML.
"""

import html
import math

from uniformer_bench.metrics import METRICS
from uniformer_bench.printing import printable

MISSING = "–"
TIMES = "×"


def escape(value: object) -> str:
    """`value` as text inside HTML or an attribute."""
    return html.escape(printable(str(value)), quote=True)


def number(value: float | None, digits: int = 3) -> str:
    """`value` to so many significant digits, never in exponents: 1.94, 12.3, 1,230."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 9)}f}".replace("-", "−")


def plain(value: float) -> str:
    """A number as a person would have typed it: 2, 0.002, 32."""
    return f"{value:.10g}".replace("-", "−")


def shown(key: str, value: float | None) -> str:
    """A metric's value in the page's unit: 81.2 %, 1.94 ms, 2.04 M."""
    if value is None:
        return MISSING
    metric = METRICS[key]
    scaled = value * metric.scale
    figure = f"{scaled:.1f}" if metric.unit == "%" else number(scaled)
    return f"{figure}\u00a0{metric.unit}"


def signed(value: float, decimals: int = 1) -> str:
    """+0.8, −0.4 or 0.0, with a true minus."""
    figure = f"{value:+.{decimals}f}"
    return f"{0:.{decimals}f}" if float(figure) == 0 else figure.replace("-", "−")


def percent(fraction: float) -> str:
    """A share of one: 34 %."""
    return f"{100 * fraction:.0f}\u00a0%"


def duration(seconds: float | None) -> str:
    """7.4 s, 8 min 20 s, 2 h 05 min."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{number(seconds)}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest:02d}\u00a0s"
    return f"{minutes // 60}\u00a0h {minutes % 60:02d}\u00a0min"


def plural(count: int, noun: str) -> str:
    """1 trial, 2 trials."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
