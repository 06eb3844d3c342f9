"""The keys of the screen that it was asked on."""

from typing import ClassVar

from rich.table import Table
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.bindings import keys_of


class HelpScreen(ModalScreen[None]):
    """Made from the table of keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Back"),
        Binding("question_mark", "dismiss(None)", "Back", show=False),
        Binding("q", "dismiss(None)", "Back", show=False),
    ]

    def __init__(self, where: str, *, operate: bool) -> None:
        super().__init__()
        self._where = where
        self._operate = operate

    def compose(self) -> ComposeResult:
        """One table."""
        table = Table(box=None, show_header=False)
        for key in keys_of(self._where, operate=self._operate):
            table.add_row(key.name, key.text)
        if not self._operate:
            table.add_row("", "read-only: `hashcost tui --operate` adds the keys that change the site")
        with VerticalScroll(id="help"):
            yield Static(f"Keys on {self._where} (Esc goes back)")
            yield Static(table)
