"""A comparison as a picture: what each policy had gained over always running by the end of each day, as SVG, as PNG
and for a terminal. Pure."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle
from xml.sax.saxutils import escape

from rich.text import Text

from agent.backtest.comparison import ALWAYS_ON, NEVER_ON, Comparison
from agent.backtest.comparison import Line as PolicyLine

WIDTH, HEIGHT = 960, 480
LEFT, RIGHT, TOP, BOTTOM = 80, 230, 40, 50
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
GRID = "#dddddd"
PNG_SCALE, FINER = 2, 2
TERMINAL_WIDTH, TERMINAL_HEIGHT = 76, 12
TERMINAL_COLOURS = ("blue", "red", "green", "magenta", "yellow", "cyan")
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of the dots of a braille character, by row and column."""
_STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Line:
    """Through these points, in pixels from the upper left corner."""

    points: Sequence[tuple[float, float]]
    colour: str
    width: float = 1.0


@dataclass(frozen=True, slots=True)
class Label:
    """A text that begins at a point of its base line, or ends there."""

    at: tuple[float, float]
    text: str
    size: int = 12
    ends: bool = False


Shape = Line | Label


def chart(comparison: Comparison) -> list[Shape]:
    """What is drawn. Policies that never switch are left out: one is the zero line, the other far off it."""
    lines, days, gains = _gains(comparison)
    values = [0.0, *(usd for each in gains.values() for usd in each)]
    ticks = _ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]

    def x(index: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * index / max(1, len(days))

    def y(usd: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (usd - low) / (high - low)

    known = f"prices known {comparison.delay_min:g} minutes after the start of their interval"
    shapes: list[Shape] = [Label((LEFT, 22), f"Gain over always running, USD ({known})", size=15)]
    for tick in ticks:
        shapes.append(Line([(LEFT, y(tick)), (WIDTH - RIGHT, y(tick))], GRID))
        shapes.append(Label((LEFT - 8, y(tick) + 4), f"{tick:,.10g}", ends=True))
    shapes += [
        Label((x(index), HEIGHT - BOTTOM + 20), day[:7])
        for index, day in enumerate(days)
        if day.endswith("-01") or index == 0
    ]
    for place, line in enumerate(lines):
        colour = COLOURS[place % len(COLOURS)]
        curve = [(x(i), y(usd)) for i, usd in enumerate([0.0, *gains[line.policy]])]
        shapes += [Line(curve, colour, 1.5), *_legend(line, place, colour)]
    return shapes


def svg(shapes: Sequence[Shape]) -> str:
    """The picture as text."""
    frame = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {frame}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for shape in shapes:
        if isinstance(shape, Line):
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
            stroke = f'stroke="{shape.colour}" stroke-width="{shape.width:g}"'
            parts.append(f'<polyline points="{points}" fill="none" {stroke}/>')
        else:
            anchor = ' text-anchor="end"' if shape.ends else ""
            x, y = shape.at
            place = f'x="{x:.1f}" y="{y:.1f}" font-size="{shape.size}"{anchor}'
            parts.append(f"<text {place}>{escape(shape.text)}</text>")
    return "\n".join([*parts, "</svg>", ""])


def png(shapes: Sequence[Shape]) -> bytes:
    """The picture as a PNG of twice as many pixels. Needs pillow: raises `ImportError` without it."""
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - of the extra

    # drawn larger and made smaller, since pillow's lines have hard edges
    scale = PNG_SCALE * FINER
    picture = Image.new("RGB", (WIDTH * scale, HEIGHT * scale), "white")
    draw = ImageDraw.Draw(picture)
    for shape in shapes:
        if isinstance(shape, Line):
            points = [(x * scale, y * scale) for x, y in shape.points]
            draw.line(points, fill=shape.colour, width=round(shape.width * scale), joint="curve")
        else:
            x, y = shape.at
            font = ImageFont.load_default(shape.size * scale)
            draw.text((x * scale, y * scale), shape.text, "black", font, "rs" if shape.ends else "ls")
    file = io.BytesIO()
    picture.resize((WIDTH * PNG_SCALE, HEIGHT * PNG_SCALE), Image.Resampling.LANCZOS).save(file, "PNG")
    return file.getvalue()


def _gains(comparison: Comparison) -> tuple[list[PolicyLine], list[str], dict[str, list[float]]]:
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


def _legend(line: PolicyLine, place: int, colour: str) -> tuple[Shape, Shape]:
    share = "" if line.share is None else f", {line.share:.1%}"
    at = TOP + 20 * place + 10
    return (
        Line([(WIDTH - RIGHT + 12, at), (WIDTH - RIGHT + 32, at)], colour, 3.0),
        Label((WIDTH - RIGHT + 38, at + 4), f"{line.policy}: {line.result.gain_usd:+,.2f}{share}"),
    )


def _ticks(low: float, high: float) -> Sequence[float]:
    """Round numbers from under the lowest to over the highest, five or so of them."""
    rough = max(high - low, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in _STEPS if power * each >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * index for index in range(first, max(last, first + 1) + 1)]
