"""What stored words are called for people, and what they mean: verdicts and attributions, each said once."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.report import units

#: Stored verdict → what people read. CPU time, retransmits and latency are not "faster" when they are less.
VERDICT_WORDS = {
    "faster": "better",
    "slower": "worse",
    "equivalent": "unchanged",
    "inconclusive": "too noisy",
    "invalid": "not judged",
}

#: What a scenario is expected to do with BIG TCP → what people read.
EXPECTATION_WORDS = {"gain": "should gain", "no change": "should not change"}

#: Stored state of an incident → what people read, where that is not the same.
STATE_WORDS = {
    "new-normal": "usual level from then on",
    "unmeasured": "no longer measured",
    "closed": "closed by hand",
}

#: What an event of an open regression says (``analysis.detector.Event``).
EVENTS = {
    "worse": "got worse",
    "eased": "better, but not as usual again",
    "new-normal": "from now on this is the usual level",
}

#: Stored attribution → what is to blame, in a sentence.
CAUSES = {
    "big-tcp": "BIG TCP",
    "platform": "the platform, in both arms",
    "infrastructure": "the infrastructure",
    "off-improved": "an improvement without BIG TCP",
}

#: Stored attribution → how that is known.
CAUSE_MEANINGS = {
    "big-tcp": "arm on got worse against arm off of the same nights, so what befalls both arms is not it",
    "platform": "both arms got worse together, so it is not BIG TCP: kernel, Cilium, nodes or NIC",
    "infrastructure": "traffic between the nodes themselves got worse, too: nodes, NIC, network or neighbours",
    "off-improved": "arm off got better and arm on did not: the gain is smaller, and nothing got slower",
}

#: Stored attribution → what to do next.
CAUSE_ADVICE = {
    "big-tcp": (
        "Compare the runs on both sides of its beginning. Where Cilium, the kernel or the NIC's driver "
        "changed about then, look for BIG TCP, GSO and GRO in its release notes, or measure the version "
        "before once more. Switch BIG TCP off only where its gain has become a loss."
    ),
    "platform": (
        "Look for what changed on the nodes about then: kernel, Cilium, driver, tuning. Switching BIG "
        "TCP off brings nothing back, for without it traffic got slower, too."
    ),
    "infrastructure": (
        "Look at the nodes, their NICs, the network between them and their neighbours: traffic that "
        "neither pods nor Cilium carry got slower, too."
    ),
}
#: What to do about one run: by its status, where its note names another Cilium, and where it is worse than the run
#: before a change.
RUN_ADVICE = {
    "invalid": (
        "Nothing for one night: it is not judged, and the next one measures again. Where it comes again, the "
        "run's page says what points to the cause."
    ),
    "failed": (
        "Look in Airflow at the task that failed first: its log ends with the reason. A teardown puts back what "
        "the run had changed, and the next night measures again."
    ),
    "note": (
        "Ask whether that Cilium is rolled out, and whether the rollout was taken back: these figures are those "
        "of the version that was measured."
    ),
    "worse": (
        "The next nights confirm it or not. To know it sooner trigger the DAG once more; the pages compare the "
        "runs and the versions on both sides of the change."
    ),
}
#: Why a gain of two runs' medians is not quite that of their verdicts.
TWO_GAINS = (
    "On against off is here of the medians of both arms; a verdict takes the drift within its run out of it, so "
    "the two may differ a little."
)
#: Why a change among the nights is another number than the gain that a headline tells.
TWO_CHANGES = (
    "A change among the nights is on against off now, divided by what it usually was; a gain is on against off "
    "itself."
)
#: What an acknowledgement does.
SILENT = "silent until it ends, or gets worse by half of what it is now and at least 3 %"
#: What a figure of the lab is worth.
EMULATED = (
    "The Kubernetes API and the Cilium agent are the lab's; the traffic, the kernel's BIG TCP and every counter "
    "are real. The figures do not say what a cluster would gain."
)
#: What to do about an incident that nothing is blamed for yet.
NO_CAUSE_ADVICE = "Wait for the next nights: a suspicion is confirmed or comes to nothing by itself."


def verdict_word(verdict: str) -> str:
    """Return what people read for a stored verdict, or state of an incident: ``better`` for ``faster``."""
    return VERDICT_WORDS.get(verdict) or STATE_WORDS.get(verdict, verdict)


def events_text(events: Iterable[str | None]) -> str:
    """Return what befell open regressions tonight, as `` (got worse)``; empty for nothing."""
    told = ", ".join(dict.fromkeys(EVENTS[event] for event in events if event in EVENTS))
    return f" ({told})" if told else ""


def listed(names: Iterable[str]) -> str:
    """Return names as a sentence lists them: ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def series_text(scenario: str, metric: str) -> str:
    """Return how a series is called: ``ipv4-stream-1 throughput``."""
    return f"{scenario} {METRICS[metric].short_label if metric in METRICS else metric}"


def gain_text(gain: float | None) -> str:
    """Return a gain for a sentence: whole per cents from ten on, ``+41 %`` or ``+3.2 %``."""
    if gain is not None and abs(gain) >= 0.095:
        return units.minus(f"{gain * 100:+.0f} %")
    return units.change_text(gain)


def day_text(night: str | date, seen_from: date | None) -> str:
    """Return a night as people say it: ``9 Nov``, with the year where it is not that of ``seen_from``."""
    day = date.fromisoformat(night) if isinstance(night, str) else night
    year = f" {day.year}" if seen_from is None or day.year != seen_from.year else ""
    return f"{day.day} {day:%b}{year}"
