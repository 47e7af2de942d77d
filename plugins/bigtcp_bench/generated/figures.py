"""The figures of a generated night: every repetition, with noise at four levels, from the night to its own."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bigtcp_bench.generated.story import NightStory
from bigtcp_bench.planning.metrics import metrics_of
from bigtcp_bench.planning.plan import CONTROL, SCENARIOS, Block, Plan, turns

if TYPE_CHECKING:
    import pandas as pd

#: Usual values by kind of scenario and metric, with BIG TCP off and on; round figures of the size that a node with
#: 100 Gbit/s shows. Nobody measured them.
USUAL: dict[str, dict[str, tuple[float, float]]] = {
    "stream-1": {
        "throughput_bps": (36.0e9, 51.0e9),
        "cpu_s_per_gb_sender": (0.205, 0.150),
        "cpu_s_per_gb_receiver": (0.330, 0.232),
        "softirq_share_sender": (0.22, 0.19),
        "softirq_share_receiver": (0.46, 0.41),
        "retransmits_per_gb": (38.0, 36.0),
        "bytes_per_packet_sender": (62_900.0, 181_000.0),
        "bytes_per_packet_receiver": (61_400.0, 174_000.0),
    },
    "stream-8": {
        "throughput_bps": (88.0e9, 92.5e9),
        "cpu_s_per_gb_sender": (0.245, 0.176),
        "cpu_s_per_gb_receiver": (0.395, 0.270),
        "softirq_share_sender": (0.25, 0.21),
        "softirq_share_receiver": (0.50, 0.44),
        "retransmits_per_gb": (95.0, 92.0),
        "bytes_per_packet_sender": (58_300.0, 139_000.0),
        "bytes_per_packet_receiver": (55_800.0, 131_000.0),
    },
    "stream-32": {
        "throughput_bps": (91.0e9, 93.5e9),
        "cpu_s_per_gb_sender": (0.265, 0.195),
        "cpu_s_per_gb_receiver": (0.430, 0.300),
        "softirq_share_sender": (0.26, 0.22),
        "softirq_share_receiver": (0.52, 0.46),
        "retransmits_per_gb": (140.0, 135.0),
        "bytes_per_packet_sender": (51_000.0, 104_000.0),
        "bytes_per_packet_receiver": (49_000.0, 98_000.0),
    },
    "rate": {
        "cpu_s_per_gb_sender": (0.412, 0.365),
        "cpu_s_per_gb_receiver": (0.590, 0.508),
        "softirq_share_sender": (0.28, 0.26),
        "softirq_share_receiver": (0.44, 0.41),
        "retransmits_per_gb": (12.0, 12.0),
        "bytes_per_packet_sender": (41_000.0, 66_000.0),
        "bytes_per_packet_receiver": (39_500.0, 63_000.0),
    },
    "rr": {
        "transactions_per_s": (9_800.0, 12_900.0),
        "latency_p50_us": (97.0, 74.0),
        "latency_p90_us": (121.0, 93.0),
        "latency_p99_us": (188.0, 151.0),
        "cpu_s_per_gb_sender": (0.610, 0.470),
        "cpu_s_per_gb_receiver": (0.640, 0.490),
        "softirq_share_sender": (0.36, 0.33),
        "softirq_share_receiver": (0.38, 0.34),
        "bytes_per_packet_sender": (31_000.0, 62_000.0),
        "bytes_per_packet_receiver": (30_000.0, 60_000.0),
    },
    "small-rr": {
        "transactions_per_s": (24_500.0, 24_500.0),
        "latency_p50_us": (39.0, 39.0),
        "latency_p90_us": (45.0, 45.0),
        "latency_p99_us": (61.0, 61.0),
        "latency_p999_us": (118.0, 118.0),
        "cpu_s_per_gb_sender": (17.5, 17.5),
        "cpu_s_per_gb_receiver": (18.0, 18.0),
        "softirq_share_sender": (0.34, 0.34),
        "softirq_share_receiver": (0.35, 0.35),
        "bytes_per_packet_sender": (560.0, 560.0),
        "bytes_per_packet_receiver": (560.0, 560.0),
    },
    "loaded-rr": {
        "transactions_per_s": (15_800.0, 15_500.0),
        "latency_p50_us": (58.0, 58.0),
        "latency_p90_us": (79.0, 83.0),
        "latency_p99_us": (112.0, 127.0),
        "latency_p999_us": (205.0, 236.0),
        "throughput_bps": (34.0e9, 48.0e9),
        "cpu_s_per_gb_sender": (0.290, 0.215),
        "cpu_s_per_gb_receiver": (0.410, 0.300),
        "softirq_share_sender": (0.24, 0.21),
        "softirq_share_receiver": (0.45, 0.41),
        "bytes_per_packet_sender": (52_000.0, 110_000.0),
        "bytes_per_packet_receiver": (50_000.0, 104_000.0),
    },
    "crr": {
        "connections_per_s": (6_900.0, 6_900.0),
        "latency_p99_us": (240.0, 240.0),
        "cpu_s_per_gb_sender": (61.0, 61.0),
        "cpu_s_per_gb_receiver": (74.0, 74.0),
        "softirq_share_sender": (0.38, 0.38),
        "softirq_share_receiver": (0.40, 0.40),
        "bytes_per_packet_sender": (250.0, 250.0),
        "bytes_per_packet_receiver": (270.0, 270.0),
    },
}

#: What a speed of s times the usual one does to a metric: its value is multiplied by s to this power.
_BY_SPEED = {
    "throughput_bps": 1.0,
    "transactions_per_s": 1.0,
    "latency_p50_us": -1.0,
    "latency_p90_us": -1.0,
    "latency_p99_us": -1.2,
    "latency_p999_us": -1.2,
    "connections_per_s": 1.0,
    "cpu_s_per_gb_sender": -0.9,
    "cpu_s_per_gb_receiver": -0.9,
}
#: Relative spread of speed: of a night, of a switch, of a generation, of a repetition.
NIGHT_SD, SWITCH_SD, GENERATION_SD, REPETITION_SD = 0.010, 0.006, 0.009, 0.008
#: What a metric has for itself beside the spread of speed.
_OWN_SD = {
    "latency_p90_us": 0.010,
    "latency_p99_us": 0.035,
    "latency_p999_us": 0.08,
    "softirq_share_sender": 0.03,
    "softirq_share_receiver": 0.03,
    "retransmits_per_gb": 0.25,
}
_OTHERS_SD = 0.005
#: Within a run the cluster warms up: from the first to the last generation.
_DRIFT_WITHIN_RUN = 0.006

CONTROL_PER_S = 21_500.0
_CONTROL_SD = 0.015
#: What the control loses on a night on which the pods' machines were not the usual ones.
_OTHER_MACHINE = 0.70
#: Segments per gigabyte of a path that loses packets.
_LOSSY_PER_GB = 31_000.0
#: Packets of arm on, where BIG TCP ends at a hop on the way.
_SEGMENTED_B = 59_800.0


#: Of the CPU time that is not softirq: what programs use themselves. Copying is the system's.
_USER_SHARE = 0.04


def _cpu_parts(values: Mapping[str, float]) -> dict[str, float]:
    """Return the parts of CPU time that fit the sums and the shares of softirq in ``values``."""
    parts: dict[str, float] = {}
    for end in ("sender", "receiver"):
        total, share = values[f"cpu_s_per_gb_{end}"], values[f"softirq_share_{end}"]
        rest = total * (1 - share)
        parts |= {
            f"user_s_per_gb_{end}": rest * _USER_SHARE,
            f"system_s_per_gb_{end}": rest * (1 - _USER_SHARE),
            f"softirq_s_per_gb_{end}": total * share,
        }
    return parts


def usual_of(scenario: str) -> dict[str, tuple[float, float]]:
    """Return metric → usual value in either arm of ``scenario``: those of its traffic, whatever its path."""
    return USUAL[scenario.partition("-")[2].partition("@")[0]]


def night_results(
    story: NightStory, plan: Plan, blocks: Sequence[Block], seed: int, scale: float = 1.0
) -> pd.DataFrame:
    """Return the results of ``blocks`` as ``Warehouse.results_frame`` would, the control of each block included.

    ``scale`` is the speed of the cluster, relative to the usual one. The figures depend on the arguments alone.
    """
    import pandas as pd

    random = np.random.default_rng([seed, story.number, blocks[0].number])
    lossy = plan.scenarios[story.number % len(plan.scenarios)]
    # Of a scenario's own, so that a new kind of traffic changes no other's history.
    moods = {
        name: np.random.default_rng([seed, story.number, zlib.crc32(name.encode())]).normal(0, NIGHT_SD)
        for name in plan.scenarios
    }
    generations = sum(block.generations for block in blocks)
    position = 0
    rows = []
    for block in blocks:
        switch = random.normal(0, SWITCH_SD)
        for generation, turn, scenarios in turns(block, plan.scenarios):
            drift = _DRIFT_WITHIN_RUN * (position + turn) / generations
            for name in scenarios:
                kind = usual_of(name)
                own = random.normal(0, GENERATION_SD)
                for repetition in range(1, plan.repetitions + 1):
                    noise = moods[name] + switch + drift + own + random.normal(0, REPETITION_SD)
                    speed = scale * story.speed[name, block.arm] * np.exp(noise)
                    of_traffic = [metric for metric in metrics_of(SCENARIOS[name].traffic) if metric.name in kind]
                    extra = random.normal(0, 1, len(of_traffic))
                    values = {}
                    for index, metric in enumerate(of_traffic):
                        usual = kind[metric.name][block.arm == "on"]
                        sd = _OWN_SD.get(metric.name, _OTHERS_SD)
                        value = usual * speed ** _BY_SPEED.get(metric.name, 0.0) * np.exp(sd * extra[index])
                        if story.fate == "lossy" and name == lossy and metric.name == "retransmits_per_gb":
                            value *= _LOSSY_PER_GB / usual
                        elif story.fate == "unproven" and metric.name == "bytes_per_packet_receiver":
                            value = min(value, _SEGMENTED_B)
                        values[metric.name] = float(value)
                    values |= _cpu_parts(values)
                    rows += [
                        (block.number, block.arm, generation, name, repetition, metric, value)
                        for metric, value in values.items()
                    ]
        position += block.generations
        if plan.control:
            other = _OTHER_MACHINE if story.fate == "other_machine" else 1.0
            control = CONTROL_PER_S * scale * story.platform * other * np.exp(random.normal(0, _CONTROL_SD))
            rows.append((block.number, block.arm, 0, CONTROL, 1, "transactions_per_s", float(control)))
    columns = ["block", "arm", "generation", "scenario", "repetition", "metric", "value"]
    # Strings as objects: judging a night of them is faster than of Arrow's.
    frame = pd.DataFrame(dict(zip(columns, zip(*rows, strict=True), strict=True)), dtype=object)
    return frame.astype(dict.fromkeys(("block", "generation", "repetition"), "int64") | {"value": "float64"})
