"""The longer queries of `agent.reader`, by name."""
# ruff: noqa: S608 - put together from names of ours

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
SELECT_PRICES = """
    select at_ms, hashprice_usd_per_ph_day, hashprice_source, difficulty, height, fees_btc, btc_usd,
           price_usd_per_kwh as power_price_usd_per_kwh, price_source as power_price_source, fee, reject, overhead
    from quotes where not own and at_ms < :end_ms and quote_id >= coalesce(
        (select max(quote_id) from quotes where not own and at_ms <= :start_ms), 0
    )
    order by quote_id
"""
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
SELECT_OPEN_ORDERS = """
    select * from orders where state in ('proposed', 'approved', 'dispatching', 'dispatched') order by order_id
"""
SELECT_GONE = "select machine_id from machines where retired_change > ?"
SELECT_SWITCHES = """
    select * from (
        select orders.*, row_number() over (partition by model, action order by order_id desc) as place,
               lead(dispatched_ms) over (partition by machine_id order by order_id) as next_ms
        from orders join machines using (machine_id) where dispatched_ms is not null
    )
    where action in ('sleep', 'wake') and confirmed_ms is not null and attempts = 1 and place <= :most
    and dispatched_ms > (select min(began_ms) from readings)
"""
"""The last switches of each model that went at once, and when the next order of the same machine was sent."""
