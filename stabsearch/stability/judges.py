"""Judges by name: the rules, and the baselines that they are measured against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stabsearch.records import TrialFacts
from stabsearch.stability.analyzer import Analyzer
from stabsearch.stability.baselines import BASELINES
from stabsearch.stability.judge import Judge
from stabsearch.thresholds import Preset, resolve

RULES_JUDGE = "rules"


def make_judge(settings: Mapping[str, Any], facts: TrialFacts) -> Judge:
    """The judge of a trial, from the ``analyzer`` section of a study.

    ``settings`` holds ``name``, and for the rules ``preset`` and ``thresholds``.
    """
    name = settings.get("name", RULES_JUDGE)
    if name != RULES_JUDGE:
        return BASELINES[name](facts)
    preset = settings.get("preset", Preset.DEFAULT)
    return Analyzer(facts, resolve(preset, settings.get("thresholds")))
