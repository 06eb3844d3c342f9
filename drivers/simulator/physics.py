"""Closed-form curves of a machine: what it hashes and draws at any moment, and exact integrals of both.

Nothing ticks. A quantity is a `Ramp` (constant, linear, constant); watts are a ramp times the day's `Swing`, because
a warmer chip leaks more. Times are seconds of simulated time since the site started; negative ones lie before it.
"""

import math
from dataclasses import dataclass

DAY_S = 86_400.0
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Swing:
    """A daily wave around 1: `1 + amplitude * cos(2 pi (t - peak_s) / day)`."""

    amplitude: float
    peak_s: float

    def at(self, t_s: float) -> float:
        """The factor at a moment."""
        return 1.0 + self.amplitude * math.cos(2 * math.pi * (t_s - self.peak_s) / DAY_S)

    def integral_of_line(self, value: float, slope: float, a_s: float, b_s: float) -> float:
        """Integral over [a, b] of `(value + slope * (t - a)) * at(t)`."""
        omega = 2 * math.pi / DAY_S
        length = b_s - a_s
        phase_a, phase_b = omega * (a_s - self.peak_s), omega * (b_s - self.peak_s)
        wave = ((value + slope * length) * math.sin(phase_b) - value * math.sin(phase_a)) / omega
        wave += slope * (math.cos(phase_b) - math.cos(phase_a)) / omega**2
        return value * length + slope * length**2 / 2 + self.amplitude * wave


FLAT = Swing(amplitude=0.0, peak_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """`before` until `start_s`, linear until `end_s`, `after` from then on."""

    before: float
    after: float
    start_s: float
    end_s: float

    def at(self, t_s: float) -> float:
        """The value at a moment."""
        if t_s <= self.start_s:
            return self.before
        if t_s >= self.end_s:
            return self.after
        return self.before + self._slope * (t_s - self.start_s)

    def integral(self, a_s: float, b_s: float, swing: Swing = FLAT) -> float:
        """Integral over [a, b] of the ramp times the swing, in value-seconds. Exact, whatever the interval."""
        total = 0.0
        flat_end, line_end = min(b_s, self.start_s), min(b_s, self.end_s)
        if a_s < flat_end:
            total += swing.integral_of_line(self.before, 0.0, a_s, flat_end)
            a_s = flat_end
        if a_s < line_end:
            total += swing.integral_of_line(self.at(a_s), self._slope, a_s, line_end)
            a_s = line_end
        if a_s < b_s:
            total += swing.integral_of_line(self.after, 0.0, a_s, b_s)
        return total

    @property
    def _slope(self) -> float:
        return (self.after - self.before) / (self.end_s - self.start_s)


def steady(value: float) -> Ramp:
    """A quantity that has always been the same."""
    return Ramp(before=value, after=value, start_s=0.0, end_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmth:
    """Thermal lag: a fraction of full heat that relaxes exponentially towards what the power asks for."""

    before: float
    after: float
    start_s: float
    lag_s: float

    def at(self, t_s: float) -> float:
        """0 is ambient, 1 the rise of a machine that has run at full power for long."""
        if t_s <= self.start_s:
            return self.before
        return self.after + (self.before - self.after) * math.exp(-(t_s - self.start_s) / self.lag_s)


def noise(seed: int, t_s: float, hold_s: float) -> float:
    """Noise of unit variance, nearly Gaussian, within +-4.3: a pure function of seed and time, held for `hold_s`."""
    state = (seed ^ (math.floor(t_s / hold_s) * 0x9E3779B97F4A7C15)) & _MASK
    total = 0
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        mixed ^= mixed >> 31
        total += (mixed & 0xFFFFFFFF) + (mixed >> 32)
    # six uniform numbers: mean 3, variance 1/2
    return (total / 2**32 - 3.0) * math.sqrt(2.0)
