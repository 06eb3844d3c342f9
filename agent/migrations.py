"""The schema of the store, one migration a released version; applied at start, never edited afterwards."""

from sqlite_utils import Database, Migrations

migrations = Migrations("hashcost")


@migrations()
def m001_first_light(db: Database) -> None:
    """Inventory, readings, prices, baselines, and the latest picture that readers load."""
    db.table("machines").create(
        {
            "machine_id": str,
            "mac": str,
            "serial": str,
            "family": str,
            "make": str,
            "model": str,
            "firmware": str,
            "driver_class": str,
            "host": str,
            "port": int,
            "machine_group": str,
            "sleep_power_w": float,
            "first_seen_ms": int,
            "last_seen_ms": int,
            "retired_ms": int,
        },
        pk="machine_id",
        not_null={"family", "make", "model", "driver_class", "host", "machine_group", "first_seen_ms"},
        strict=True,
    )
    db.table("quotes").create(
        {
            "quote_id": int,
            "at_ms": int,
            "difficulty": float,
            "height": int,
            "fees_btc": float,
            "btc_usd": float,
            "hashprice_usd_per_ph_day": float,
            "hashprice_source": str,
            "price_usd_per_kwh": float,
            "price_source": str,
            "fee": float,
            "reject": float,
            "overhead": float,
        },
        pk="quote_id",
        not_null={"at_ms", "fee", "reject", "overhead"},
        strict=True,
    )
    db.table("readings").create(
        {
            "machine_id": str,
            "began_ms": int,
            "valid_ms": int,
            "run_state": str,
            "failure": str,
            "implausible": str,
            "hashrate_ths": float,
            "power_w": float,
            "power_source": str,
            "power_mode": str,
            "chip_temp_c": float,
            "quote_id": int,
        },
        pk=("machine_id", "began_ms"),
        not_null={"valid_ms", "run_state", "power_source", "quote_id"},
        foreign_keys=[("machine_id", "machines"), ("quote_id", "quotes")],
        strict=True,
    )
    db.table("readings").create_index(["began_ms"])
    db.table("baselines").create(
        {
            "machine_id": str,
            "power_mode": str,
            "hashrate_ths": float,
            "power_w": float,
            "power_source": str,
            "power_error": float,
            "firmware": str,
            "boards_alive": int,
            "as_of_ms": int,
        },
        pk=("machine_id", "power_mode"),
        not_null={"hashrate_ths", "power_w", "power_source", "power_error", "boards_alive", "as_of_ms"},
        foreign_keys=[("machine_id", "machines")],
        strict=True,
    )
    db.table("latest").create(
        {
            "machine_id": str,
            "at_ms": int,
            "seen_ms": int,
            "run_state": str,
            "failure": str,
            "implausible": str,
            "hashrate_ths": float,
            "power_w": float,
            "power_source": str,
            "power_mode": str,
            "chip_temp_c": float,
            "basis": str,
            "efficiency_j_per_th": float,
            "revenue_usd_per_day": float,
            "energy_cost_usd_per_day": float,
            "margin_usd_per_day": float,
            "decision_margin_usd_per_day": float,
            "hashcost_usd_per_ph_day": float,
            "strike_price_usd_per_kwh": float,
            "breakeven_hashprice_usd_per_ph_day": float,
            "payback_days": float,
            "action": str,
            "reason": str,
            "marginal": int,
            "detail": str,
        },
        pk="machine_id",
        not_null={"at_ms", "run_state", "power_source", "action", "reason", "marginal", "detail"},
        foreign_keys=[("machine_id", "machines")],
        strict=True,
    )
    db.table("rounds").create(
        {
            "began_ms": int,
            "took_ms": int,
            "machines": int,
            "answered": int,
            "failed": int,
            "backed_off": int,
            "skipped_rounds": int,
        },
        pk="began_ms",
        not_null={"took_ms", "machines", "answered", "failed", "backed_off", "skipped_rounds"},
        strict=True,
    )
    db.table("events").create(
        {"event_id": int, "at_ms": int, "kind": str, "machine_id": str, "detail": str},
        pk="event_id",
        not_null={"at_ms", "kind", "detail"},
        strict=True,
    )


@migrations()
def m002_orders(db: Database) -> None:
    """Orders, at most one open per machine, and what a reading needs to tell avoided loss."""
    db.table("orders").create(
        {
            "order_id": int,
            "machine_id": str,
            "action": str,
            "state": str,
            "reason": str,
            "ordered_by": str,
            "created_ms": int,
            "dispatched_ms": int,
            "confirmed_ms": int,
            "settled_ms": int,
            "power_w": float,
            "target_mode": str,
            "attempts": int,
            "drifts": int,
            "restore": str,
            "failure": str,
            "detail": str,
            "snapshot": str,
        },
        pk="order_id",
        not_null={
            "machine_id",
            "action",
            "state",
            "reason",
            "ordered_by",
            "created_ms",
            "power_w",
            "attempts",
            "drifts",
        },
        foreign_keys=[("machine_id", "machines")],
        strict=True,
    )
    db.table("settings").create({"name": str, "value": str}, pk="name", not_null={"value"}, strict=True)
    db.execute(
        "create unique index one_open_order on orders (machine_id) "
        "where state in ('proposed', 'approved', 'dispatching', 'dispatched')"
    )
    db.execute(
        "create unique index one_standing_sleep on orders (machine_id) where action = 'sleep' and state = 'confirmed'"
    )
    db.table("orders").create_index(["settled_ms"])
    db.execute("alter table readings add column ours integer")
    db.execute("alter table readings add column decision_margin_usd_per_day real")


@migrations()
def m003_decisions(db: Database) -> None:
    """What was last decided of each machine, since when, and from what."""
    db.table("decisions").create(
        {
            "machine_id": str,
            "action": str,
            "target_mode": str,
            "reason": str,
            "automatic": int,
            "regret_usd": float,
            "switching_cost_usd": float,
            "since_ms": int,
            "snapshot": str,
        },
        pk="machine_id",
        not_null={"reason", "automatic", "regret_usd", "switching_cost_usd", "since_ms", "snapshot"},
        strict=True,
    )


@migrations()
def m004_own_terms(db: Database) -> None:
    """Quotes of machines whose terms are not the site's."""
    db.execute("alter table quotes add column own integer not null default 0")


@migrations()
def m005_terminal(db: Database) -> None:
    """What a terminal that is open all night loads: changes since it last looked, the site's past, machine details."""
    db.execute("alter table latest add column expected_hashrate_ths real")
    for table in ("latest", "decisions"):
        db.execute(f"alter table {table} add column change integer not null default 0")
        db.execute(f"create index {table}_change on {table} (change)")
    db.execute("alter table machines add column retired_change integer")
    db.execute("create index retired_change on machines (retired_change) where retired_change is not null")
    db.execute("create index orders_of_machine on orders (machine_id)")
    db.execute("alter table baselines add column samples integer not null default 30")
    db.execute("alter table rounds add column quote_id integer references quotes (quote_id)")
    for column in ("power_kw", "hashrate_phs", "margin_usd_per_day"):
        db.execute(f"alter table rounds add column {column} real")
    db.table("details").create(
        {"machine_id": str, "as_of_ms": int, "detail": str},
        pk="machine_id",
        not_null={"as_of_ms", "detail"},
        foreign_keys=[("machine_id", "machines")],
        strict=True,
    )
    db.execute(
        "insert into details (machine_id, as_of_ms, detail) "
        "select machine_id, seen_ms, detail from latest where seen_ms is not null and detail <> '{}'"
    )
    db.execute("alter table latest drop column detail")


@migrations()
def m006_outbox(db: Database) -> None:
    """What waits to be told to a fleet; empty on a site that belongs to none."""
    db.table("outbox").create(
        {
            "outbox_id": int,
            "epoch": str,
            "sequence": int,
            "kind": str,
            "at_ms": int,
            "bytes": int,
            "payload": bytes,
        },
        pk="outbox_id",
        not_null={"epoch", "sequence", "kind", "at_ms", "bytes", "payload"},
        strict=True,
    )


@migrations()
def m007_ledger(db: Database) -> None:
    """Sums per machine and hour, power prices that turned out otherwise, and what a sleeping machine does awake."""
    for column in ("running_ths", "running_power_w"):
        db.execute(f"alter table readings add column {column} real")
    db.execute("alter table quotes add column credit_usd_per_kwh real not null default 0")
    db.execute(
        """
        create table ledger (
            machine_id text not null references machines (machine_id),
            hour_ms integer not null,
            mining_h real not null,
            asleep_h real not null,
            low_power_h real not null,
            metered_kwh real not null,
            reported_kwh real not null,
            estimated_kwh real not null,
            energy_kwh real not null,
            avoidable_kwh real not null,
            hash_phd real not null,
            revenue_usd real not null,
            energy_cost_usd real not null,
            priced_phd real not null,
            paid_phd real not null,
            avoidable_priced_kwh real not null,
            avoidable_cost_usd real not null,
            price_h_usd_per_kwh real not null,
            hashprice_h real not null,
            priced_h real not null,
            avoided_loss_usd real not null,
            forgone_profit_usd real not null,
            switching_cost_usd real not null,
            curtailments integer not null,
            power_source text,
            appraisals integer not null default 1,
            primary key (machine_id, hour_ms)
        ) strict, without rowid
        """
    )
    db.execute("create index ledger_hour on ledger (hour_ms)")
    db.table("settlements").create(
        {"start_ms": int, "end_ms": int, "price_usd_per_kwh": float, "source": str, "told_ms": int},
        pk="start_ms",
        not_null={"end_ms", "price_usd_per_kwh", "source", "told_ms"},
        strict=True,
    )


@migrations()
def m008_retention(db: Database) -> None:
    """Steps of five minutes, which outlive the readings that they were rolled up from, and extremes beside sums."""
    extremes = ("least_hashrate_ths", "most_hashrate_ths", "least_power_w", "most_power_w", "least_chip_temp_c",
                "most_chip_temp_c")  # fmt: skip
    for column in extremes:
        db.execute(f"alter table ledger add column {column} real")
    db.execute(
        f"""
        create table steps (
            step_ms integer not null,
            machine_id text not null references machines (machine_id),
            mining_h real not null,
            asleep_h real not null,
            low_power_h real not null,
            metered_kwh real not null,
            reported_kwh real not null,
            estimated_kwh real not null,
            energy_kwh real not null,
            avoidable_kwh real not null,
            hash_phd real not null,
            revenue_usd real not null,
            energy_cost_usd real not null,
            priced_phd real not null,
            paid_phd real not null,
            avoidable_priced_kwh real not null,
            avoidable_cost_usd real not null,
            price_h_usd_per_kwh real not null,
            hashprice_h real not null,
            priced_h real not null,
            avoided_loss_usd real not null,
            forgone_profit_usd real not null,
            switching_cost_usd real not null,
            curtailments integer not null,
            power_source text,
            {", ".join(f"{column} real" for column in extremes)},
            primary key (step_ms, machine_id)
        ) strict, without rowid
        """
    )


@migrations()
def m009_lean_rounds(db: Database) -> None:
    """Readings in the order of time, in which they come and go: one index less to write, pages that are full, and no
    look at machines and prices, of which none is ever deleted, for each of them. The picture is written whole every
    round, so that an index of what changed in it spares nothing."""
    db.execute("drop index latest_change")
    db.execute("alter table readings rename to readings_before")
    db.execute(
        """
        create table readings (
            machine_id text not null,
            began_ms integer not null,
            valid_ms integer not null,
            run_state text not null,
            failure text,
            implausible text,
            hashrate_ths real,
            power_w real,
            power_source text not null,
            power_mode text,
            chip_temp_c real,
            quote_id integer not null,
            ours integer,
            decision_margin_usd_per_day real,
            running_ths real,
            running_power_w real,
            primary key (began_ms, machine_id)
        ) strict, without rowid
        """
    )
    columns = (
        "machine_id, began_ms, valid_ms, run_state, failure, implausible, hashrate_ths, power_w, power_source, "
        "power_mode, chip_temp_c, quote_id, ours, decision_margin_usd_per_day, running_ths, running_power_w"
    )
    db.execute(f"insert into readings select {columns} from readings_before order by began_ms, machine_id")  # noqa: S608
    db.execute("drop table readings_before")
    db.execute("create index readings_of_machine on readings (machine_id, began_ms)")


@migrations()
def m010_prices_that_end(db: Database) -> None:
    """Prices by time, and what refers to them: old ones are dropped."""
    db.execute("create index quotes_of_site on quotes (at_ms) where not own")
    db.execute("create index rounds_quote on rounds (quote_id)")
