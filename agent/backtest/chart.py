"""A comparison as a picture: what each policy had gained over always running by the end of each day, as SVG and for a
terminal. Pure."""

import math
from collections.abc import Sequence
from itertools import accumulate, cycle
from xml.sax.saxutils import escape

from rich.text import Text

from agent.backtest.comparison import ALWAYS_ON, NEVER_ON, Comparison, Line

WIDTH, HEIGHT = 960, 480
LEFT, RIGHT, TOP, BOTTOM = 80, 230, 40, 50
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
TERMINAL_WIDTH, TERMINAL_HEIGHT = 76, 12
TERMINAL_COLOURS = ("blue", "red", "green", "magenta", "yellow", "cyan")
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of the dots of a braille character, by row and column."""
_STEPS = (1.0, 2.0, 5.0, 10.0)


def svg(comparison: Comparison) -> str:
    """The picture as text. Policies that never switch are left out: one is the zero line, the other far off it."""
    lines, days, gains = _gains(comparison)
    values = [0.0, *(usd for each in gains.values() for usd in each)]
    ticks = _ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]

    def x(index: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * index / max(1, len(days))

    def y(usd: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (usd - low) / (high - low)

    frame = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"'
    known = f"prices known {comparison.delay_min:g} minutes after the start of their interval"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {frame}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">Gain over always running, USD ({known})</text>',
    ]
    parts += [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
        f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:,.10g}</text>'
        for tick in ticks
    ]
    for index, day in enumerate(days):
        if day.endswith("-01") or index == 0:
            parts.append(f'<text x="{x(index):.1f}" y="{HEIGHT - BOTTOM + 20}">{day[:7]}</text>')
    for place, line in enumerate(lines):
        colour = COLOURS[place % len(COLOURS)]
        points = " ".join(f"{x(i):.1f},{y(usd):.1f}" for i, usd in enumerate([0.0, *gains[line.policy]]))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(_legend(line, place, colour))
    return "\n".join([*parts, "</svg>", ""])


def _gains(comparison: Comparison) -> tuple[list[Line], list[str], dict[str, list[float]]]:
    """The policies that are drawn, the days, and what each had gained by the end of each."""
    lines = [line for line in comparison.lines if line.policy not in (ALWAYS_ON, NEVER_ON)]
    days = sorted(lines[0].result.daily_usd) if lines else []
    return (
        lines,
        days,
        {line.policy: list(accumulate(line.result.daily_usd[day] for day in days)) for line in lines},
    )


def terminal(comparison: Comparison) -> list[Text]:
    """The same in braille dots; of policies that share a character the last one gives its colour."""
    lines, days, gains = _gains(comparison)
    values = [0.0, *(usd for each in gains.values() for usd in each)]
    low, high = min(values), max(*values, min(values) + 1e-9)
    dots, shades = _canvas([[0.0, *gains[line.policy]] for line in lines], low, high)
    told = [Text("Gain over always running, USD", "bold")]
    for row in range(TERMINAL_HEIGHT):
        label = {0: f"{high:,.2f}", TERMINAL_HEIGHT - 1: f"{round(low, 2) + 0.0:,.2f}"}.get(row, "")
        text = Text(f"{label:>12} ")
        for column in range(TERMINAL_WIDTH):
            text.append(chr(0x2800 + dots[row][column]), shades[row][column])
        told.append(text)
    told.append(Text(f"{'':13}{days[0]:<{TERMINAL_WIDTH - 10}}{days[-1]}" if days else ""))
    colours = zip(lines, cycle(TERMINAL_COLOURS), strict=False)
    told.append(Text.assemble(" " * 13, *((f"{line.policy}  ", colour) for line, colour in colours)))
    return told


def _canvas(
    curves: Sequence[Sequence[float]], low: float, high: float
) -> tuple[list[list[int]], list[list[str]]]:
    """Dots and colours of each character."""
    dots = [[0] * TERMINAL_WIDTH for _ in range(TERMINAL_HEIGHT)]
    shades = [[""] * TERMINAL_WIDTH for _ in range(TERMINAL_HEIGHT)]
    wide, tall = TERMINAL_WIDTH * 2 - 1, TERMINAL_HEIGHT * 4 - 1
    for curve, colour in zip(curves, cycle(TERMINAL_COLOURS), strict=False):
        before = None
        for x in range(wide + 1):
            y = round((high - curve[round(x / wide * (len(curve) - 1))]) / (high - low) * tall)
            for each in range(
                min(y, y if before is None else before), max(y, y if before is None else before) + 1
            ):
                dots[each // 4][x // 2] |= _DOTS[each % 4][x % 2]
                shades[each // 4][x // 2] = colour
            before = y
    return dots, shades


def _legend(line: Line, place: int, colour: str) -> str:
    share = "" if line.share is None else f", {line.share:.1%}"
    text = escape(f"{line.policy}: {line.result.gain_usd:+,.2f}{share}")
    at = TOP + 20 * place + 10
    return (
        f'<line x1="{WIDTH - RIGHT + 12}" x2="{WIDTH - RIGHT + 32}" y1="{at}" y2="{at}" stroke="{colour}" '
        f'stroke-width="3"/><text x="{WIDTH - RIGHT + 38}" y="{at + 4}">{text}</text>'
    )


def _ticks(low: float, high: float) -> Sequence[float]:
    """Round numbers from under the lowest to over the highest, five or so of them."""
    rough = max(high - low, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in _STEPS if power * each >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * index for index in range(first, max(last, first + 1) + 1)]
