from __future__ import annotations

import re
from pathlib import Path

import pytest

from stabsearch import thresholds
from stabsearch.stability import rules
from stabsearch.thresholds import BARS, DEFAULTS, THRESHOLDS, Bars, Preset, resolve

SOURCE = Path(rules.__file__).read_text()


def test_every_threshold_is_used_by_a_rule_and_every_one_used_exists():
    used = set(re.findall(r'"(R\d+[a-z]?\.\w+)"', SOURCE))

    assert used == set(THRESHOLDS)


def test_a_change_goes_over_the_preset():
    limits = resolve(Preset.STRICT, {"R1b.prune": 0.45})

    assert limits["R1b.prune"] == 0.45
    assert limits["R1b.penalise"] == THRESHOLDS["R1b.penalise"].strict
    assert set(limits) == set(DEFAULTS)


def test_a_name_that_is_none_is_refused():
    with pytest.raises(KeyError, match=r"R1b\.prnue"):
        resolve(changes={"R1b.prnue": 0.4})


@pytest.mark.parametrize("name", [n for n, t in THRESHOLDS.items() if t.strict is not None])
def test_the_default_lies_between_strict_and_lenient(name):
    row = THRESHOLDS[name]
    low, high = sorted((row.strict, row.lenient))

    assert low <= row.default <= high
    assert low < high


@pytest.mark.parametrize("name", THRESHOLDS)
@pytest.mark.parametrize("preset", Preset)
def test_every_preset_is_within_the_range_of_what_is_judged(preset, name):
    row = THRESHOLDS[name]

    assert row.low <= row.of(preset) <= row.high


@pytest.mark.parametrize("preset", Preset)
@pytest.mark.parametrize("bars", BARS, ids=str)
def test_no_preset_reaches_a_severe_bar_before_the_mild_one(preset, bars):
    assert not bars.is_crossed(resolve(preset))


def test_every_rule_with_a_bar_to_penalise_and_one_to_prune_is_in_the_table():
    penalised = {name for name in THRESHOLDS if name.endswith(".penalise")}

    assert {bars.mild for bars in BARS} == penalised
    assert {bars.severe for bars in BARS} <= set(THRESHOLDS)


@pytest.mark.parametrize(
    ("mild", "severe", "rises", "is_crossed"),
    [
        (0.2, 0.5, True, False),
        (0.5, 0.5, True, False),
        (0.6, 0.5, True, True),
        (0.5, 0.2, False, False),
        (0.5, 0.5, False, False),
        (0.2, 0.5, False, True),
    ],
)
def test_bars_are_crossed_in_the_direction_in_which_things_get_worse(
    mild, severe, rises, is_crossed
):
    bars = Bars("mild", "severe", rises=rises)

    assert bars.is_crossed({"mild": mild, "severe": severe}) is is_crossed


def test_the_module_needs_nothing():
    """A study file is checked before numpy is loaded."""
    imports = re.findall(r"^(?:from|import) (\S+)", Path(thresholds.__file__).read_text(), re.M)

    assert set(imports) <= {"__future__", "collections.abc", "dataclasses", "enum"}
