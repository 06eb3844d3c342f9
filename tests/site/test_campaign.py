"""A small fault campaign; `make soak` is the large one."""

from pathlib import Path

import pytest

from tests.site.campaign import FAULTS, READ_ONLY, Outcome, campaign, may_have_a_disk

TOLD = Path(__file__).parents[2] / "docs" / "fault-campaign.md"
SMALL = (
    "SIGSTOP for 8 minutes",
    "disk full",
    "40 % of the site hostile",
    "hashprice gone until it is too old",
)


@pytest.mark.timeout(1500)  # which it needs only to tell what never came to rest
async def test_struck_amid_a_curtailment_the_agent_loses_nothing_and_does_nothing_wrong():
    outcomes = await campaign(12, list(SMALL), seed=3, told=lambda _: None)
    assert [outcome.row() for outcome in outcomes if not outcome.is_well] == []


@pytest.mark.skipif(not may_have_a_disk(), reason="a disk of one's own needs root and a loop device")
@pytest.mark.timeout(1500)
async def test_on_a_disk_that_turns_read_only_amid_a_curtailment_nothing_is_done_without_a_record():
    outcomes = await campaign(6, [READ_ONLY], seed=3, told=lambda _: None)
    assert [outcome.row() for outcome in outcomes if not outcome.is_well] == []


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("x", ["the pools"], [], 1.0, 1.0),
        Outcome("x", [], ["sent too much"], 1.0, 1.0),
        Outcome("x", [], [], None, 1.0),
        Outcome("x", [], [], 1.0, None),
    ],
)
def test_what_is_lost_wrong_or_never_over_is_not_well(outcome):
    assert not outcome.is_well


@pytest.mark.parametrize("fault", FAULTS)
def test_the_outcome_of_every_fault_is_told(fault):
    assert f"| {fault} |" in TOLD.read_text()
