"""What Prometheus is shown of a site: sums by group, model, state and reason, never a line per machine.

hashcost_machines{group="row-1",state="mining"} 240
"""

import os
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from agent.curtailment import Mode
from agent.exposition import Exposition, bounded
from agent.orders import OrderAction, OrderState
from agent.summary import breakeven_efficiency
from agent.view import MachineView, totals
from agent.vitals import Vitals
from drivers.reading import RunState

STARTED_AT_S = time.time()


def metrics_text(vitals: Vitals | None) -> str:
    """The page. Before the first round there is only what is known of the process."""
    page = Exposition()
    _process(page)
    if vitals is not None:
        _site(page, vitals)
        _prices(page, vitals)
        _decisions(page, vitals)
        _agent(page, vitals)
    return page.text()


def _site(page: Exposition, vitals: Vitals) -> None:
    views = vitals.picture.views
    machines = page.gauge("machines", "Machines by group and what they do.")
    warmest = page.gauge(
        "chip_temp_c_max", "Hottest chip that a machine of the group reports, degrees Celsius."
    )
    for name, members in _by(views, lambda view: view.group):
        for state in RunState:
            machines.set(sum(view.run_state is state for view in members), group=name, state=state.value)
        _sums(page, "group", name, members)
        hottest = max((v.chip_temp_c for v in members if v.chip_temp_c is not None), default=None)
        warmest.set(hottest, group=name)
    of_model = page.gauge("model_machines", "Machines by model.")
    for name, members in _by(views, lambda view: view.model):
        of_model.set(len(members), model=name)
        _sums(page, "model", name, members)
    failing = page.gauge("unreadable_machines", "Machines that could not be read, by the kind of failure.")
    for kind, count in vitals.failures().items():
        failing.set(count, kind=kind)


def _sums(page: Exposition, label: str, name: str, members: Sequence[MachineView]) -> None:
    """Sums over the machines whose reading can be used, as everywhere; ratios are for whoever asks."""
    prefix, sums = "" if label == "group" else "model_", totals(members)
    labels = {label: name}
    page.gauge(f"{prefix}power_kw", f"Load by {label}, kW.").set(sums.power_kw, **labels)
    page.gauge(f"{prefix}hashrate_phs", f"Hashrate by {label}, PH/s.").set(sums.hashrate_phs, **labels)
    page.gauge(f"{prefix}margin_usd_per_day", f"Gross margin of what mines by {label}, USD/day.").set(
        sums.margin_usd_per_day, **labels
    )
    page.gauge(f"{prefix}lost_usd_per_day", f"What machines under break-even lose by {label}, USD/day.").set(
        sums.lost_usd_per_day, **labels
    )
    page.gauge(f"{prefix}under_breakeven_machines", f"Machines that mine under break-even by {label}.").set(
        sums.under_breakeven, **labels
    )


def _prices(page: Exposition, vitals: Vitals) -> None:
    market = vitals.picture.market
    page.gauge("hashprice_usd_per_ph_day", "Hashprice that is reckoned with, USD/PH/day.").set(
        market.hashprice_usd_per_ph_day
    )
    page.gauge("power_price_usd_per_kwh", "Power price that is reckoned with, USD/kWh.").set(
        market.price_usd_per_kwh
    )
    page.gauge("breakeven_efficiency_j_per_th", "J/TH above which a machine loses money.").set(
        breakeven_efficiency(market, vitals.picture.terms)
    )
    age = page.gauge("price_age_s", "Age of a price's oldest input, s; fixed prices have none.")
    for name, quote in (("hashprice", market.hashprice), ("power", market.power)):
        if quote is not None and not quote.fixed:
            age.set((market.at - quote.observed_at).total_seconds(), price=name)
    page.gauge("prices_automatic", "1 while the agent may act on the prices by itself.").set(market.automatic)
    up = page.gauge("source_up", "1 for a source of prices whose last answer could be used.")
    answered = page.gauge(
        "source_answered_timestamp_s", "When a source last gave a usable answer, s since 1970."
    )
    for source in vitals.sources:
        up.set(source.failure is None and source.answered_at is not None, source=source.name)
        answered.set(_seconds(source.answered_at), source=source.name)


def _decisions(page: Exposition, vitals: Vitals) -> None:
    advised = page.gauge("recommendations", "Machines by what is recommended, and why.")
    for view in vitals.picture.views:
        advised.set(1, action=view.action.value, reason=view.reason.value)
    orders = page.gauge("orders", "Orders of the last day, and those that are open or stand.")
    for action in OrderAction:
        for state in OrderState:
            count = sum(order.action is action and order.state is state for order in vitals.orders)
            orders.set(count, action=action.value, state=state.value)
    page.gauge("disobedient_machines", "Machines that lately did not do what they were told.").set(
        len(vitals.given_up)
    )
    page.gauge("asleep_by_order_machines", "Machines that sleep on an order of ours.").set(
        sum(order.is_standing for order in vitals.orders)
    )
    mode = page.gauge("mode", "1 for the mode that the agent is in.")
    for each in Mode:
        mode.set(each is vitals.mode, mode=each.value)
    page.gauge("held", "1 while a person holds the site as it is.").set(vitals.held)
    page.gauge("obligation_target_kw", "Load that the site may draw under a call of the grid, kW.").set(
        vitals.obligation_kw
    )


def _agent(page: Exposition, vitals: Vitals) -> None:
    last = vitals.round
    page.counter("rounds_total", "Poll rounds that were stored since the start.").set(vitals.rounds)
    page.counter("skipped_rounds_total", "Rounds that were left out because one took too long.").set(
        last.skipped_rounds
    )
    page.gauge("round_timestamp_s", "When the last round began, s since 1970.").set(_seconds(last.began_at))
    page.gauge("round_took_s", "How long the last round took, s.").set(last.took_s)
    of_round = page.gauge("round_machines", "Machines of the last round by what became of their reading.")
    for outcome in ("answered", "failed", "backed_off"):
        of_round.set(getattr(last, outcome), outcome=outcome)
    late = page.gauge("loop_late", "1 for a loop of the agent that makes no progress.")
    failed = page.counter("loop_failures_total", "How often a loop failed and was started again.")
    for name, loop in vitals.loops.items():
        late.set(loop["late"], loop=name)
        failed.set(loop["failures"], loop=name)
    page.gauge("storage_failed", "1 while nothing can be recorded, and so nothing is done.").set(
        vitals.storage_problem is not None
    )
    page.gauge("database_bytes", "Size of the database with its journals.").set(vitals.disk.database_bytes)
    page.gauge("disk_free_bytes", "Room on the disk of the database.").set(vitals.disk.free_bytes)
    page.gauge("disk_total_bytes", "Size of the disk of the database.").set(vitals.disk.total_bytes)


def _process(page: Exposition) -> None:
    page.gauge("build_info", "1; its label is the version that runs.").set(1, version=_version())
    page.gauge("start_timestamp_s", "When the process started, s since 1970.").set(STARTED_AT_S)
    used = resource.getrusage(resource.RUSAGE_SELF)
    page.counter("cpu_s_total", "CPU time that the process used, s.").set(used.ru_utime + used.ru_stime)
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        page.gauge("resident_bytes", "Memory of the process.").set(pages * resource.getpagesize())
    with suppress(OSError):
        page.gauge("open_files", "Files and sockets that the process has open.").set(
            len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not looked at
        )


def _by(
    views: Iterable[MachineView], label: Callable[[MachineView], str]
) -> Iterable[tuple[str, list[MachineView]]]:
    """The machines under each value of a label, which are never many."""
    views = list(views)
    shown, found = bounded(map(label, views)), defaultdict(list)
    for view in views:
        found[shown[label(view)]].append(view)
    return sorted(found.items())


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _version() -> str:
    try:
        return version("hashcost")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"
