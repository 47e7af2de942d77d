"""Every number that a verdict depends on, with what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Thresholds(BaseModel):
    """Every number a verdict depends on; stored with each verdict.

    Where a number comes from a simulation, docs/statistics.md shows what it buys. Shares and relative changes are
    fractions (0.05 = 5 %).
    """

    # The DAG files are parsed every few seconds and validate nothing: the validator is made when first used.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    # Within one run.
    margin: float = Field(0.05, gt=0, le=0.5, description="changes smaller than this do not matter")
    confidence_level: float = Field(0.95, ge=0.5, lt=1, description="level of the confidence intervals")
    power: float = Field(
        0.8, ge=0.5, lt=1, description="probability with which the smallest detectable change is detected"
    )
    switch_sd: float = Field(
        0.01,
        ge=0,
        le=0.2,
        description="relative spread that a switch of arms adds, assumed until an A/A run has measured it",
    )
    bend_sd: float = Field(
        0.045,
        ge=0,
        le=0.2,
        description="relative spread of a drift that bends, from the middle of a run to its ends; three blocks "
        "cannot tell it from an effect",
    )

    # What makes a run, or a scenario of it, invalid.
    min_complete_share: float = Field(
        0.9, gt=0, le=1, description="share of a scenario's repetitions in one arm that must have succeeded"
    )
    drift_limit: float = Field(
        0.15, gt=0, le=1, description="first against last block of one arm may differ by this much"
    )
    steal_limit: float = Field(
        0.05, gt=0, le=1, description="share of CPU time that the hypervisor may take from a node during a block"
    )
    throttle_limit: float = Field(
        0.05, gt=0, le=1, description="share of the scheduler's periods in which a CPU limit may hold a pod back"
    )
    busy_limit: float = Field(
        0.5, gt=0, le=1, description="share of a node's CPU time that others may use just before a block"
    )
    retransmit_limit_per_gb: float = Field(
        20_000, gt=0, description="retransmitted segments per gigabyte (about 3 % of all); more is a lossy path"
    )
    control_limit: float = Field(
        0.15,
        gt=0,
        le=1,
        description="how far the control may be from its median of the last nights, or further if they vary much",
    )
    control_nights: int = Field(20, ge=3, le=365, description="nights over which that median is taken")

    # Across runs.
    learning_nights: int = Field(14, ge=5, le=365, description="valid nights before a series is judged")
    baseline_nights: int = Field(60, ge=5, le=1000, description="newest usual nights that say what is usual")
    history_margin: float = Field(0.03, gt=0, le=0.5, description="smallest lasting change called a regression")
    min_sd: float = Field(
        0.005, gt=0, le=0.2, description="spread of nights is taken to be at least this, however quiet they were"
    )
    cusum_slack: float = Field(
        0.85, ge=0, le=3, description="k of the CUSUM: standard deviations a night may be worse at no cost"
    )
    cusum_limit: float = Field(
        3.35, gt=0, le=50, description="h of the CUSUM: accumulated standard deviations that make a regression"
    )
    cusum_clip: float = Field(
        2.1, gt=0.5, le=10, description="most standard deviations that a single night can count for"
    )
    platform_cusum_limit: float = Field(
        6.5, gt=0, le=50, description="h for both arms together: a platform has its moods"
    )
    sudden_cusum_slack: float = Field(
        1.4, ge=0, le=5, description="k of a second CUSUM of both arms together, for falls that are large at once"
    )
    sudden_cusum_limit: float = Field(4.0, gt=0, le=50, description="h of it")
    sudden_cusum_clip: float = Field(
        3.3, gt=0.5, le=10, description="most standard deviations that a single night can count for there"
    )
    suspect_sds: float = Field(
        3.5, gt=0, le=20, description="a night worse by this many standard deviations is suspect ..."
    )
    suspect_margin: float = Field(0.07, gt=0, le=1, description="... if it is also worse by this much")
    rerun_sds: float = Field(
        3.0, gt=0, le=20, description="a night off by this many standard deviations, either way, is repeated ..."
    )
    rerun_margin: float = Field(0.05, gt=0, le=1, description="... if it is also off by this much")
    recovery_nights: int = Field(3, ge=1, le=30, description="normal nights in a row that end a regression")
    new_normal_nights: int = Field(
        90, ge=15, le=1000, description="valid nights after which a lasting regression is the new normal"
    )
    moved_sds: float = Field(
        3.0, gt=0, le=10, description="standard errors by which one arm must have moved to be blamed for a change"
    )
    incident_nights: int = Field(
        5, ge=0, le=60, description="changes within this many days of each other are one incident"
    )
    unmeasured_nights: int = Field(
        14, ge=1, le=365, description="nights without a series after which its incident ends as no longer measured"
    )


def thresholds_of(plan: Mapping[str, Any] | None) -> Thresholds:
    """Return the thresholds of a stored plan.

    What this version does not know, or does not allow any more, has its default: every version stores plans.
    """
    given = (plan or {}).get("thresholds") or {}
    try:
        return Thresholds.model_validate(given)
    except ValidationError as error:
        wrong = {place["loc"][0] for place in error.errors() if place["loc"]}
        return Thresholds.model_validate({name: value for name, value in given.items() if name not in wrong})
