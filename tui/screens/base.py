"""What all screens share: the header, a line for what just happened, the footer, and what follows a refresh."""

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rich.text import Text
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer, Static

from agent.database import StoreError
from tui.bindings import operating_actions
from tui.source import AgentState, SiteState
from tui.widgets.site_header import SiteHeader

if TYPE_CHECKING:
    from tui.app import HashcostApp

T = TypeVar("T")


class SiteScreen(Screen[None]):
    """A screen of the site. `WHERE` is its name in the table of keys."""

    WHERE: ClassVar[str]

    @property
    def site(self) -> "HashcostApp":
        """The app, as what it is."""
        from tui.app import HashcostApp  # noqa: PLC0415 - the app knows its screens

        assert isinstance(self.app, HashcostApp)  # noqa: S101 - nobody else has these screens
        return self.app

    def compose(self) -> ComposeResult:
        """Header, content, a line of notes, footer."""
        yield SiteHeader(operate=self.site.operate, site=self.site.site_name)
        yield from self.content()
        yield Static(id="notes")
        yield Static(id="problem")
        yield Footer(show_command_palette=False)

    def content(self) -> Iterable[Widget]:
        """What lies between."""
        raise NotImplementedError

    def draw(self, state: SiteState, agent: AgentState) -> None:
        """Show what is known now. Called whenever that may have changed, and when the screen comes to the front."""
        raise NotImplementedError

    def on_mount(self) -> None:
        """Begin with what is known."""
        self.refresh_site()

    def on_screen_resume(self) -> None:
        """Others were in front meanwhile."""
        self.refresh_site()

    def refresh_site(self) -> None:
        """Draw header and content from what the app knows."""
        if not self.query("#problem"):  # not composed yet
            return
        problem = self.query_one("#problem", Static)
        told = [each for each in (self.site.problem, self.site.agent.silence) if each]
        problem.display = bool(told)
        problem.update(Text("\n".join(told), "bold red"))
        if self.site.state is None:
            return
        self.query_one(SiteHeader).show(self.site.state, self.site.agent, self.site.source.clock())
        self.draw(self.site.state, self.site.agent)

    def load(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Fetch something in the background; what was asked for before and did not come yet is given up."""
        self.run_worker(work, exclusive=True)  # type: ignore[arg-type]  # Textual's type of a coroutine is narrower

    async def fetch(self, asked: Awaitable[T], take: Callable[[T], None]) -> None:
        """Take what the source gives and draw anew, or say why it gives nothing."""
        try:
            take(await asked)
        except StoreError as error:
            self.note(Text(str(error), "bold red"))
        else:
            self.note()
            self.refresh_site()

    def note(self, *lines: Text) -> None:
        """Say something under the content; nothing takes it away again."""
        self.query_one("#notes", Static).update(Text("\n").join(lines))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What changes the site is there for those who said so only."""
        del parameters
        return self.site.operate or action not in operating_actions()
