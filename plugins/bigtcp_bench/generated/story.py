"""What happens in a generated history, night by night: upgrades, regressions, bad nights, runs that fail."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from bigtcp_bench.in_cluster.treatment import ARMS
from bigtcp_bench.planning.plan import SCENARIOS, Arm

#: How a night's run ends. ``unproven`` and ``other_machine`` trip a gate of the whole run, ``lossy`` one of a
#: single scenario; ``unrestored`` was measured well, but its restore was not verified.
Fate = Literal["ordinary", "aa", "missed", "unproven", "other_machine", "lossy", "failed", "unrestored"]

#: Where in the history something begins, as a share of it, and what is then in force.
_CILIUM = ((0.0, "1.17.9"), (0.22, "1.18.1"), (0.45, "1.18.2"), (0.50, "1.18.3"), (0.80, "1.19.0"))
_KERNELS = ((0.0, "6.12.41"), (0.62, "6.18.5"))
#: Which Cilium made BIG TCP slower, and by how much.
_SLOW_CILIUM = "1.18.2"
_SLOW_CILIUM_FACTOR = 0.89
#: The newer kernel is faster in both arms.
_NEW_KERNEL_FACTOR = 1.05
#: For some nights the platform itself was slower: both arms, and the control.
_SLOW_PLATFORM = (0.70, 0.735)
_SLOW_PLATFORM_FACTOR = 0.90
#: The last thing that happened, and nobody has put it right: BIG TCP over IPv4 lost a part of what it gains.
_STILL_SLOW_FROM = 0.95
_STILL_SLOW_FACTOR = 0.91
#: Both arms get slower, very slowly.
_DRIFT_PER_NIGHT = -0.00006

#: Every so many nights there is an A/A run instead, the first one in this night.
_AA_NIGHTS, _FIRST_AA_NIGHT = 60, 44
#: How often a night is bad for no reason that anybody finds.
_BAD_NIGHT = 0.012
#: The nights that end in another way than usual, as shares of the history.
_FATES: dict[Fate, tuple[float, ...]] = {
    "missed": (0.18, 0.52, 0.76),
    "unproven": (0.13, 0.66),
    "other_machine": (0.31,),
    "lossy": (0.27, 0.88),
    "failed": (0.09, 0.40, 0.985),
    "unrestored": (0.57,),
}


#: In a shorter history nobody starts anything.
_ENOUGH_NIGHTS = 20
#: Runs that somebody started, as shares of the history, each with the note. The last one names a Cilium that was
#: not there: its rollout had been taken back.
_BY_HAND = (
    (0.63, "after the new kernel"),
    (0.90, "new firmware 28.43.1014 on both NICs"),
    (0.93, "after the upgrade to Cilium 1.19.1"),
)


@dataclass(frozen=True)
class NightStory:
    """One night: how its run ends, what runs where, and how fast it is.

    ``speed`` is the factor on the usual speed by scenario and arm, ``platform`` the part of it that the control
    shares.
    """

    number: int
    fate: Fate
    cilium: str
    kernel: str
    platform: float
    speed: Mapping[tuple[str, Arm], float]


@dataclass(frozen=True)
class Intervention:
    """A run in the afternoon after the night ``after``: of the upgrade watch, or by hand, which has a ``note``."""

    after: int
    story: NightStory
    note: str = ""


def interventions(told: Sequence[NightStory]) -> list[Intervention]:
    """Return the runs between the nights of ``told``: each new Cilium is measured before its first night."""
    if len(told) < _ENOUGH_NIGHTS:
        return []
    found = [
        Intervention(before.number, replace(story, number=len(told) + story.number, fate="ordinary"))
        for before, story in itertools.pairwise(told)
        if before.cilium != story.cilium
    ]
    for place, note in _BY_HAND:
        story = told[int(place * len(told))]
        run = replace(story, number=len(told) + story.number, fate="ordinary")
        found.append(Intervention(story.number, run, note))
    return found


def stories(nights: int, seed: int) -> list[NightStory]:
    """Return what happens in ``nights`` nights; the same ``seed`` tells the same story."""
    random = np.random.default_rng([seed, nights])
    fates = {int(place * nights): fate for fate, places in _FATES.items() for place in places}
    told = []
    for number in range(nights):
        place = number / nights
        cilium, kernel = _in_force(_CILIUM, place), _in_force(_KERNELS, place)
        platform = float(np.exp(_DRIFT_PER_NIGHT * number))
        if random.random() < _BAD_NIGHT:
            platform *= random.uniform(0.86, 0.93)
        if _SLOW_PLATFORM[0] <= place < _SLOW_PLATFORM[1]:
            platform *= _SLOW_PLATFORM_FACTOR
        told.append(
            NightStory(
                number=number,
                fate=_fate(number, nights, fates),
                cilium=cilium,
                kernel=kernel,
                platform=platform,
                speed={
                    (name, arm): platform * _speed(name, arm, cilium, kernel, place)
                    for name in SCENARIOS
                    for arm in ARMS
                },
            )
        )
    return told


def _fate(number: int, nights: int, fates: Mapping[int, Fate]) -> Fate:
    # What is looked at first should have something to show.
    if number in (0, nights - 1):
        return "ordinary"
    if number % _AA_NIGHTS == _FIRST_AA_NIGHT:
        return "aa"
    return fates.get(number, "ordinary")


def _in_force(timeline: tuple[tuple[float, str], ...], place: float) -> str:
    return next(value for begin, value in reversed(timeline) if begin <= place)


def _speed(scenario: str, arm: Arm, cilium: str, kernel: str, place: float) -> float:
    speed = _NEW_KERNEL_FACTOR if kernel == _KERNELS[-1][1] else 1.0
    family, traffic = SCENARIOS[scenario].family, SCENARIOS[scenario].traffic
    if arm == "off" or traffic == "rate":
        return speed
    if cilium == _SLOW_CILIUM and family == "ipv6":
        speed *= _SLOW_CILIUM_FACTOR
    if place >= _STILL_SLOW_FROM and family == "ipv4" and traffic == "stream":
        speed *= _STILL_SLOW_FACTOR
    return speed
