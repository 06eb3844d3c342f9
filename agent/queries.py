"""The longer queries of `agent.reader`, by name."""
# ruff: noqa: S608 - put together from names of ours

from agent.books import CORRECTED
from agent.ledger import MS_PER_HOUR

SELECT_LAST_SCAN = """
    select * from events
    where (kind = 'scan_failure' or kind like 'machine_%')
    and event_id < (select max(event_id) from events where kind = 'scanned')
    and event_id > (
        select coalesce(max(event_id), 0) from events where kind = 'scanned'
        and event_id < (select max(event_id) from events where kind = 'scanned')
    )
    order by event_id
"""
SELECT_LATEST = """
    select latest.*, mac, host, port, make, model, firmware, machine_group
    from latest join machines using (machine_id)
"""
SELECT_OWN_QUOTE = """
    select quotes.* from readings join quotes using (quote_id)
    where machine_id = ? order by began_ms desc limit 1
"""
_PRICES = """
    quotes.quote_id, at_ms, hashprice_usd_per_ph_day, hashprice_source, difficulty, height, fees_btc, btc_usd,
    price_usd_per_kwh as power_price_usd_per_kwh, price_source as power_price_source, fee, reject, overhead
"""
SELECT_PRICES = f"""
    select {_PRICES} from quotes where not own and at_ms < :end_ms and quote_id >= coalesce(
        (select max(quote_id) from quotes where not own and at_ms <= :start_ms), 0
    )
    order by quote_id
"""
SELECT_PRICES_OF_ROUNDS = f"""
    select began_ms, {_PRICES} from rounds join quotes using (quote_id)
    where began_ms >= ? and began_ms < ? order by began_ms
"""
SELECT_NEXT_ROUND = "select min(began_ms) from rounds where began_ms >= ?"
SELECT_TERMS = """
    select machines.machine_id, sleep_power_w, fee, reject, overhead, price_usd_per_kwh, price_source
    from machines join quotes on quote_id = (
        select quote_id from readings where readings.machine_id = machines.machine_id
        order by began_ms desc limit 1
    )
    where retired_ms is null
"""
SELECT_SLEEPS = (
    "select machine_id, confirmed_ms from orders where action = 'sleep' and confirmed_ms is not null"
)
READING_COLUMNS = """
    machine_id, began_ms, valid_ms, run_state, implausible, hashrate_ths, power_w, power_source, power_mode,
    chip_temp_c, ours, decision_margin_usd_per_day, running_ths, running_power_w, hashprice_usd_per_ph_day,
    price_usd_per_kwh, price_source = 'own' as own_price, fee, reject, overhead, credit_usd_per_kwh
"""
SELECT_READINGS = f"""
    select {READING_COLUMNS} from readings join quotes using (quote_id)
    where began_ms < :end_ms and began_ms >= (
        select coalesce(min(began_ms), :start_ms) from readings
        where began_ms < :start_ms and began_ms + valid_ms > :start_ms
    )
    order by machine_id, began_ms
"""
"""From the oldest reading that reaches into the range: what began since then may have cut it off, and counts too."""
SELECT_READINGS_OF_ONE = f"""
    select {READING_COLUMNS} from readings join quotes using (quote_id)
    where machine_id = :machine_id and began_ms < :end_ms and began_ms >= coalesce(
        (select max(began_ms) from readings where machine_id = :machine_id and began_ms < :start_ms), :start_ms
    )
    order by began_ms
"""
SELECT_LAST_READING = f"""
    select {READING_COLUMNS} from readings join quotes using (quote_id)
    where machine_id = :machine_id and began_ms > coalesce(:after_ms, -1)
    and began_ms <= coalesce(:until_ms, 9e15)
    order by began_ms desc limit 1
"""
SELECT_ROUNDS = """
    select began_ms, hashprice_usd_per_ph_day, price_usd_per_kwh, fee, reject, overhead,
           power_kw, hashrate_phs, margin_usd_per_day
    from rounds left join quotes using (quote_id)
    where began_ms >= :since_ms and began_ms < :end_ms order by began_ms
"""
_IS_ENDED = """
    state not in ('proposed', 'approved', 'dispatching', 'dispatched')
    and not (action = 'sleep' and state = 'confirmed')
"""
SELECT_WHOLE_HOUR = f"""
    select 1 where exists (select 1 from ledger where hour_ms = ?1)
    and not exists (select 1 from steps where step_ms >= ?1 and step_ms < ?1 + {MS_PER_HOUR})
    and not exists (
        select 1 from readings where began_ms > ?1 - {MS_PER_HOUR} and began_ms < ?1 + {MS_PER_HOUR}
    )
"""
SELECT_ENDED_ORDERS = f"""
    select {{}} from orders where settled_ms >= ? and settled_ms < ? and {_IS_ENDED} order by order_id
"""
SELECT_EVENTS = "select {} from events where at_ms >= ? and at_ms < ? order by event_id"
PRUNE = {
    "settlements": f"""
        delete from settlements where start_ms in (
            select start_ms from settlements where end_ms <= ? and source <> '{CORRECTED}' order by start_ms limit ?
        )
    """,  # a correction stays in its file, and would be new again at every look
    "readings": """
        delete from readings where (began_ms, machine_id) in (
            select began_ms, machine_id from readings where began_ms < ? order by began_ms limit ?
        )
    """,
    "steps": """
        delete from steps where (step_ms, machine_id) in (
            select step_ms, machine_id from steps where step_ms < ? order by step_ms limit ?
        )
    """,
    "ledger": """
        delete from ledger where (machine_id, hour_ms) in (
            select machine_id, hour_ms from ledger where hour_ms < ? order by hour_ms limit ?
        )
    """,
    "rounds": """
        delete from rounds where began_ms in (
            select began_ms from rounds where began_ms < ? order by began_ms limit ?
        )
    """,
    "events": """
        delete from events where event_id in (
            select event_id from events where event_id < (
                select event_id from events where at_ms >= ? order by event_id limit 1
            ) order by event_id limit ?
        )
    """,
    "orders": f"""
        delete from orders where order_id in (
            select order_id from orders where settled_ms < ? and {_IS_ENDED}
            and order_id < (select max(order_id) from orders) order by settled_ms limit ?
        )
    """,
    "quotes": """
        delete from quotes where quote_id in (
            select quote_id from quotes where quote_id < (
                select quote_id from quotes where not own and at_ms <= min(
                    ?, coalesce((select min(began_ms) from readings), 9e15),
                    coalesce((select min(began_ms) from rounds), 9e15)
                ) - 3600000 order by at_ms desc limit 1
            ) and not exists (select 1 from rounds where rounds.quote_id = quotes.quote_id)
            order by quote_id limit ?
        )
    """,
}
"""Of each table the oldest rows of before a moment, at most so many. Open orders and sleeps that stand stay; so do the
newest order and event, which the next is numbered after, and prices that were in force in or after the oldest reading
or round: a round takes new ones for all machines, or those of the round before."""
SELECT_OPEN_ORDERS = """
    select * from orders where state in ('proposed', 'approved', 'dispatching', 'dispatched') order by order_id
"""
SELECT_GONE = "select machine_id from machines where retired_change > ?"
SELECT_SWITCHES = """
    select * from (
        select orders.*, row_number() over (partition by model, action order by order_id desc) as place,
               lead(dispatched_ms) over (partition by machine_id order by order_id) as next_ms
        from orders join machines using (machine_id) where dispatched_ms is not null
    ) as switches
    where action in ('sleep', 'wake') and confirmed_ms is not null and attempts = 1 and place <= :most
    and dispatched_ms > (select min(began_ms) from readings)
"""
"""The last switches of each model that went at once, and when the next order of the same machine was sent."""
