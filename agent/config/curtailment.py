"""What the agent may do, when a machine is switched, and the site's limits."""

from typing import Annotated

from pydantic import Field

from agent.config.section import Section
from agent.curtailment import Mode, Rule


class CurtailmentSection(Section):
    """What the agent may do, when a machine is switched, and the site's limits."""

    mode: Annotated[Mode, Field(strict=False)] = Field(
        default=Mode.RECOMMEND,
        description="observe (appraise only), recommend (propose, a person approves) or auto.",
    )
    rule: Annotated[Rule, Field(strict=False)] = Field(
        default=Rule.CUMULATIVE,
        description="cumulative (switch once waiting has cost, or will while the price stands, 0.7 of a cycle) or "
        "dead_band.",
    )
    switching_cost_usd: Annotated[float, Field(ge=0, le=10)] | None = Field(
        default=None,
        description="What a sleep and a wake cost together, USD: ramp energy, lost hash, wear. Without it what is "
        "learned, from 0.02, and 0.04 for an S21, on.",
    )
    switching_cost_by_model: dict[str, Annotated[float, Field(ge=0, le=10)]] = Field(
        default={},
        description="The same by model, USD; a name stands for every model that begins with it.",
    )
    dead_band: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.12, description="For rule dead_band: share of the energy cost that a margin must exceed."
    )
    min_on_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=600.0, description="Seconds that a woken machine runs before it may be put to sleep again."
    )
    min_off_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=600.0, description="Seconds that a machine sleeps before it may be woken."
    )
    override_cycles: Annotated[float, Field(ge=1)] = Field(
        default=5.0,
        description="Waiting that has cost so many cycles overrides the minimum times.",
    )
    cycles_per_day: Annotated[int, Field(ge=1, le=100)] = Field(
        default=8, description="Sleeps of one machine within a day."
    )
    batch_machines: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=50, description="Machines moved within a minute, each way."
    )
    ramp_kw_per_min: Annotated[float, Field(ge=15)] = Field(
        default=500.0,
        description="Load moved within a minute, each way, kW; at least that of one big machine.",
    )
    min_site_kw: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="Load that economics may not go below, kW."
    )
    max_site_kw: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Load that no wake may exceed, kW."
    )
