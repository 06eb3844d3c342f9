"""Asks before something is done to the site: what, how much, to whom. More than a twentieth of the site wants its
number typed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from agent.explain import printable
from agent.summary import counted

LARGE_SHARE = 0.05
HOURS = 24.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be done. `lines` are the machines, each with what it moves; `refused` those that are left out and why.
    Of `kw` and `usd_per_day` what is unknown is left out."""

    verb: str
    count: int
    site_machines: int
    kw: float
    usd_per_day: float
    lines: Sequence[str]
    refused: Sequence[str] = ()
    warning: str = ""
    forgone: bool = False
    """The money is what is given up, not what is gained."""
    unknown: int = 0
    """Machines of which kW or worth are not known."""

    @property
    def is_large(self) -> bool:
        """More than a twentieth of the site."""
        return self.count > LARGE_SHARE * self.site_machines


class ConfirmScreen(ModalScreen[bool]):
    """Yes or no. The safe answer has the keys; Esc is no."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "no", "No, go back")]

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan

    def compose(self) -> ComposeResult:
        """The question, the list, the answers."""
        plan = self._plan
        with Vertical(id="dialog"):
            yield Static(question(plan), id="question")
            with VerticalScroll(id="list", can_focus=False):
                yield Static(Text("\n".join(printable(line) for line in _listed(plan))))
            if plan.is_large:
                yield Static(
                    f"This is {plan.count / plan.site_machines:.0%} of the site. Type {plan.count} to go on:"
                )
                yield Input(id="number", restrict=r"\d*", max_length=6)
            with Horizontal(id="answers"):
                yield Button("No, go back", id="no")
                yield Button(
                    f"Yes, {plan.verb} {plan.count}",
                    id="yes",
                    variant="error",
                    disabled=plan.is_large or not plan.count,
                )

    def on_mount(self) -> None:
        """The keys go to the number, or to No."""
        self.query_one("#number" if self._plan.is_large else "#no").focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """The right number opens the way."""
        self.query_one("#yes", Button).disabled = event.value != str(self._plan.count)

    def on_input_submitted(self) -> None:
        """Enter in the field goes to the button; it does not press it."""
        if not self.query_one("#yes", Button).disabled:
            self.query_one("#yes").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """An answer."""
        self.dismiss(event.button.id == "yes")

    def action_no(self) -> None:
        """Nothing is done."""
        self.dismiss(False)


def question(plan: Plan) -> Text:
    """In one line, and what it is worth in another."""
    hourly = plan.usd_per_day / HOURS
    text = Text.assemble((f"{plan.verb} {counted(plan.count, 'machine')}?", "bold"))
    if plan.kw or plan.usd_per_day:
        worth = f"forgoes {hourly:.2f} USD/hour" if plan.forgone else f"{hourly:+.2f} USD/hour for the site"
        text.append(f"\n{plan.kw:,.1f} kW, {worth}")
    if plan.unknown:
        text.append(f"\nwithout {plan.unknown} of which it is not known", "yellow")
    if plan.warning:
        text.append(f"\n{plan.warning}", "bold yellow")
    return text


def _listed(plan: Plan) -> Iterable[str]:
    yield from plan.lines
    if plan.refused:
        yield f"left out ({len(plan.refused)}):"
        yield from (f"  {line}" for line in plan.refused)
