from __future__ import annotations

import numpy as np
import pytest
from simulations.across_nights import BAD_SHARE, NIGHTS, SD, both_arms, make_nights, one_series
from simulations.document import replace_section, table
from simulations.within_run import FULL, SERIES, WORLDS, Case, case_of, shape_of, simulate


@pytest.mark.parametrize("world", [FULL, WORLDS[2], WORLDS[4]], ids=lambda world: world.name)
def test_a_nightly_run_is_seldom_wrong_whatever_drifts(world):
    rows = simulate((case_of("nightly", world), 0.0, 1, 10))
    assert len(rows) == 10 * len(SERIES)
    assert rows[:, 0].mean() < 0.09
    # A warm-up is low at the start, where the arm is off.
    assert abs(np.nanmean(rows[:, 2])) < (0.02 if world.warm_up else 0.006)


def test_made_up_drifts_are_as_described():
    block = np.repeat([1, 2, 3, 4, 5], [2, 4, 4, 4, 2])
    named = {world.name.split(":")[0]: shape_of(world, block) for world in WORLDS}
    assert np.ptp(named["U"]) == pytest.approx(0.06, abs=0.001)
    assert named["U"][0] == named["U"][-1] > named["U"][8]
    warm = named["warm-up"]
    assert warm[0] == pytest.approx(-0.08)
    assert -0.03 < warm[1] < -0.01
    assert not warm[2:].any()


def test_the_plain_way_is_often_wrong():
    plain = Case("plain", "off,on", 12, FULL, 1, plain=True, one_pair_per_block=True)
    rows = simulate((plain, 0.0, 1, 5))
    assert rows[:, 0].mean() > 0.25


def test_the_same_seed_gives_the_same_answer():
    assert one_series(("bad nights", 0.1, True, {}, [1, 2], 3)) == one_series(
        ("bad nights", 0.1, True, {}, [1, 2], 3)
    )


@pytest.mark.parametrize("reruns", [False, True])
def test_made_up_nights_are_as_described(reruns):
    random = np.random.default_rng(1)
    values = {
        model: np.array([make_nights(model, random, reruns) for _ in range(200)])
        for model in ("Gaussian", "bad nights", "autocorrelated")
    }
    assert values["Gaussian"].shape == (200, NIGHTS, 3 if reruns else 1)
    first = {model: array[:, :, 0] for model, array in values.items()}
    assert first["Gaussian"].std() == pytest.approx(SD, rel=0.03)
    assert (first["bad nights"] < -0.11).mean() == pytest.approx(BAD_SHARE, rel=0.2)
    echo = np.corrcoef(first["autocorrelated"][:, :-1].ravel(), first["autocorrelated"][:, 1:].ravel())[0, 1]
    assert echo == pytest.approx(0.35 if reruns else 0.5, abs=0.03)


def test_who_is_blamed_is_counted():
    tally = both_arms(("Gaussian", 0.03, 0.02, "on", [1, 1], 5))
    assert tally.blamed["big-tcp"] >= 4
    assert np.median(tally.delays) <= 4


def test_tables_go_to_their_place(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n", encoding="utf-8")
    replace_section("x", table(["case", "value"], [["one", "1"]]), document)
    assert document.read_text(encoding="utf-8") == (
        "a\n<!-- begin x -->\n\n| case | value |\n|---|--:|\n| one | 1 |\n\n<!-- end x -->\nb\n"
    )
    with pytest.raises(ValueError, match="no section 'y'"):
        replace_section("y", "", document)
