"""A number that is moved with the arrows, between a low and a high, from where it is now."""

from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType
from textual.message import Message
from textual.widget import Widget

from tui.bindings import SLIDERS, bindings
from tui.glyphs import glyphs

STEP = 0.01
"""A step, as a share of where it began."""
LABEL, VALUE = 12, 28
REACH = 1.0
"""It goes from nothing to so much more than it began with."""


class Slider(Widget, can_focus=True):
    """One number of a scenario. `value` is where it stands, `began` where it is in truth."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(SLIDERS)]

    class Moved(Message):
        """It stands elsewhere."""

    def __init__(
        self,
        name: str,
        unit: str,
        *,
        id: str,  # noqa: A002 - Textual's word
        decimals: int,
        lowest_step: float = 0.0,
        lowest: float = 0.0,
        lowest_share: float = 0.0,
    ) -> None:
        super().__init__(id=id)
        self._label = name
        self._unit = unit
        self._decimals = decimals
        self._lowest_step = lowest_step
        self._lowest = lowest
        self._lowest_share = lowest_share
        self._glyphs = glyphs()
        self.began = 0.0
        self.value = 0.0

    def begin(self, value: float) -> None:
        """This is where it is in truth; one that nobody moved goes along."""
        moved = self.value != self.began
        self.began = value
        if not moved:
            self.value = value
        self.refresh()

    def set(self, value: float) -> None:
        """Put it somewhere."""
        lowest = self._lowest_share * self.began if self._lowest_share else self._lowest
        self.value = max(lowest, value)
        self.refresh()

    def action_step(self, steps: int) -> None:
        """So many steps up or down."""
        self.set(self.value + steps * max(abs(self.began) * STEP, self._lowest_step))
        self.post_message(self.Moved())

    def render(self) -> Text:
        """Name, a track with a handle, value and change."""
        change = self.value / self.began - 1 if self.began else 0.0
        moved = f" ({change:+.0%})" if self.value != self.began else ""
        told = f"{self.value:,.{self._decimals}f} {self._unit}{moved}"
        room = max(5, self.size.width - LABEL - VALUE - 4)
        span = self.began * (1 + REACH) or 1.0
        place = min(room - 1, max(0, round(self.value / span * (room - 1))))
        track = self._glyphs.line * place + self._glyphs.handle + self._glyphs.line * (room - 1 - place)
        style = "bold reverse" if self.has_focus else "bold"
        return Text.assemble(
            (f"{self._label:<{LABEL}}", style), " ", track, " ", (told, "cyan" if moved else "")
        )

    def on_focus(self) -> None:
        """Seen by its name."""
        self.refresh()

    def on_blur(self) -> None:
        """The same."""
        self.refresh()
