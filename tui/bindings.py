"""Every key of the terminal, once: the footer, the help, the palette and docs/reference.md are made from this table."""

from collections.abc import Iterable
from dataclasses import dataclass

from textual.binding import Binding

FLEET, MACHINE, CURTAILMENT, MARKET, WHAT_IF, EVENTS = (
    "fleet", "machine", "curtailment", "market", "what-if", "events",
)  # fmt: skip
SCREENS = (FLEET, MACHINE, CURTAILMENT, MARKET, WHAT_IF, EVENTS)
SITES, ALL_MACHINES = "sites", "machines"
"""The screens of a fleet; each of its sites has the others."""
EVERYWHERE, TABLES, SLIDERS = "everywhere", "tables", "sliders"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key: on which screen it does what. `operates` are keys that change something on the site: only with --operate.
    `shown` are those in the footer, which has room for a few."""

    key: str
    action: str
    text: str
    where: str = EVERYWHERE
    label: str = ""
    shown: bool = True
    operates: bool = False

    def binding(self) -> Binding:
        """For Textual."""
        return Binding(
            self.key,
            self.action,
            self.text,
            show=self.shown,
            key_display=self.label or None,
            tooltip=self.text,
        )

    @property
    def name(self) -> str:
        """As it is printed on a keyboard."""
        return self.label or self.key


KEYS = (
    *(
        Key(key=str(number), action=f"go('{name}')", text=name.capitalize(), shown=False)
        for number, name in enumerate(SCREENS, start=1)
    ),
    Key(key="question_mark", label="?", action="help", text="Help"),
    Key(key="ctrl+p", label="^p", action="command_palette", text="Command palette", shown=False),
    Key(key="q", action="quit", text="Quit"),
    Key(key="H", action="hold", text="Hold", operates=True),
    Key(key="U", action="resume", text="Resume", operates=True, shown=False),
    Key(key="enter", action="open", text="Open", where=FLEET, label="Enter"),
    Key(key="slash", label="/", action="filter", text="Filter", where=FLEET),
    Key(key="escape", label="Esc", action="unfilter", text="All machines", where=FLEET, shown=False),
    Key(key="s", action="sort", text="Sort", where=FLEET, shown=False),
    Key(key="d", action="turn", text="Other direction", where=FLEET, shown=False),
    Key(key="space", label="Space", action="mark", text="Mark", where=FLEET),
    Key(key="a", action="mark_all", text="Mark all shown", where=FLEET, shown=False),
    Key(key="n", action="mark_none", text="Mark none", where=FLEET, shown=False),
    Key(key="C", action="curtail", text="Curtail", where=FLEET, operates=True),
    Key(key="R", action="restore", text="Restore", where=FLEET, operates=True),
    Key(key="escape", label="Esc", action="app.go('fleet')", text="Fleet", where=MACHINE),
    Key(key="C", action="curtail", text="Curtail", where=MACHINE, operates=True),
    Key(key="R", action="restore", text="Restore", where=MACHINE, operates=True),
    Key(key="enter", action="open", text="Open", where=CURTAILMENT, label="Enter"),
    Key(key="space", label="Space", action="mark", text="Mark", where=CURTAILMENT),
    Key(key="a", action="mark_all", text="Mark all proposals", where=CURTAILMENT, shown=False),
    Key(key="n", action="mark_none", text="Mark none", where=CURTAILMENT, shown=False),
    Key(key="A", action="approve", text="Approve", where=CURTAILMENT, operates=True),
    Key(key="X", action="reject", text="Reject", where=CURTAILMENT, operates=True),
    Key(key="p", action="preset", text="Preset", where=WHAT_IF),
    Key(key="r", action="reset", text="As it is now", where=WHAT_IF),
    Key(key="slash", label="/", action="filter", text="Filter", where=EVENTS),
    Key(key="escape", label="Esc", action="unfilter", text="All events", where=EVENTS, shown=False),
    Key(key="enter", action="open", text="Open the site", where=SITES, label="Enter"),
    Key(key="m", action="app.go('machines')", text="All machines", where=SITES),
    Key(key="s", action="sort", text="Sort", where=SITES, shown=False),
    Key(key="d", action="turn", text="Other direction", where=SITES, shown=False),
    Key(key="enter", action="open", text="Open the machine", where=ALL_MACHINES, label="Enter"),
    Key(key="escape", label="Esc", action="app.go('sites')", text="Sites", where=ALL_MACHINES),
    Key(key="s", action="sort", text="Sort", where=ALL_MACHINES, shown=False),
    Key(key="d", action="turn", text="Other direction", where=ALL_MACHINES, shown=False),
    Key(key="up", label="Up", action="move(-1)", text="Row up", where=TABLES, shown=False),
    Key(key="down", label="Down", action="move(1)", text="Row down", where=TABLES, shown=False),
    Key(key="pageup", label="PgUp", action="page(-1)", text="Page up", where=TABLES, shown=False),
    Key(key="pagedown", label="PgDn", action="page(1)", text="Page down", where=TABLES, shown=False),
    Key(key="home", label="Home", action="first", text="First row", where=TABLES, shown=False),
    Key(key="end", label="End", action="last", text="Last row", where=TABLES, shown=False),
    Key(key="left", label="Left", action="step(-1)", text="A little less", where=SLIDERS, shown=False),
    Key(key="right", label="Right", action="step(1)", text="A little more", where=SLIDERS, shown=False),
    Key(key="pageup", label="PgUp", action="step(10)", text="Much more", where=SLIDERS, shown=False),
    Key(key="pagedown", label="PgDn", action="step(-10)", text="Much less", where=SLIDERS, shown=False),
)


_WIDGETS = {
    SITES: (TABLES,),
    ALL_MACHINES: (TABLES,),
    FLEET: (TABLES,),
    CURTAILMENT: (TABLES,),
    EVENTS: (TABLES,),
    WHAT_IF: (SLIDERS,),
}


def bindings(where: str) -> list[Binding]:
    """Of a screen, or of all."""
    return [key.binding() for key in KEYS if key.where == where]


def operating_actions() -> frozenset[str]:
    """Actions that change something on the site."""
    return frozenset(key.action for key in KEYS if key.operates)


def keys_of(where: str, *, operate: bool) -> Iterable[Key]:
    """Those that work on a screen, its own first."""
    return [
        key
        for place in (where, *(_WIDGETS.get(where, ())), EVERYWHERE)
        for key in KEYS
        if key.where == place and (operate or not key.operates)
    ]


def as_markdown() -> str:
    """The table for docs/reference.md."""
    rows = [
        f"| `{key.name}` | {key.where} | {key.text}{' (with `--operate`)' if key.operates else ''} |"
        for key in KEYS
    ]
    return "\n".join(["| key | screen | does |", "|---|---|---|", *rows])
