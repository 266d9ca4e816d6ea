from __future__ import annotations

import re
from pathlib import Path

import pytest

from stabsearch import thresholds
from stabsearch.stability import rules
from stabsearch.thresholds import DEFAULTS, THRESHOLDS, Preset, resolve

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


def test_the_module_needs_nothing():
    """A study file is checked before numpy is loaded."""
    imports = re.findall(r"^(?:from|import) (\S+)", Path(thresholds.__file__).read_text(), re.M)

    assert set(imports) <= {"__future__", "collections.abc", "dataclasses", "enum"}
