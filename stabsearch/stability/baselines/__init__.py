"""Other judges, behind the same interface, to be compared with and to be used.

chapter   the four rules that stabsearch started from
spikes    spike rules of other trainers: lightning, llm_foundry, olmo, olmo_core, zclip
rank      rules that compare trials: they judge a study, not a trial, and stand apart
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from stabsearch.records import TrialFacts
from stabsearch.stability.baselines.chapter import ChapterJudge
from stabsearch.stability.baselines.spikes import SPIKE_DETECTORS, SpikeDetector, SpikeJudge
from stabsearch.stability.judge import Judge


def _spike_judge(rule: str, detector: Callable[[], SpikeDetector], facts: TrialFacts) -> Judge:
    return SpikeJudge(facts, rule, detector())


BASELINES: dict[str, Callable[[TrialFacts], Judge]] = {
    "chapter": ChapterJudge,
    **{
        name: functools.partial(_spike_judge, name, detector)
        for name, detector in SPIKE_DETECTORS.items()
    },
}
"""Name -> judge of one trial."""
