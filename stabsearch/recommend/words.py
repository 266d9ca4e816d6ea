"""Numbers and symptoms as people read them: the same in the log, the answer and the figures.

Imports nothing heavy: the progress of a study is written with it before pandas is needed.
"""

from __future__ import annotations

import math

from stabsearch.records import DIVERGENCES, Params, ParamValue, Symptom

SYMPTOM_WORDS = {
    Symptom.NON_FINITE: "turned NaN or infinite",
    Symptom.LOST_PROGRESS: "lost progress",
    Symptom.WORSE_THAN_TRIVIAL: "no better than a trivial denoiser",
    Symptom.CATASTROPHIC_EXCURSION: "catastrophic excursion",
    Symptom.NOT_LEARNING: "did not learn",
    Symptom.LOSS_STUCK: "learned too slowly",
    Symptom.LEARNING_RATE_LOW: "had too low a learning rate",
    Symptom.LEARNING_RATE_HIGH: "had too high a learning rate",
    Symptom.CLEAN_TIMESTEPS_HIGH: "was poor at the cleanest timesteps",
    Symptom.NOISY_TIMESTEPS_HIGH: "was poor at the noisiest timesteps",
    Symptom.NOISY_TIMESTEPS_AMPLIFIED: "amplified errors at the noisiest timesteps",
    Symptom.TIME_BLIND: "did not look at the timestep",
    Symptom.EARLY_TIMESTEP_DOMINATION: "learned the cleanest timesteps only",
    Symptom.LATE_TIMESTEP_DOMINATION: "learned the noisiest timesteps only",
    Symptom.TIMESTEP_DOMINATION: "learned a few timesteps only",
    Symptom.DEAD_TIMESTEPS: "left timesteps unlearned",
    Symptom.GRADIENT_OUTLIERS: "had many outlying gradients",
    Symptom.EMA_TOO_LONG: "averaged its weights over too long a time",
    Symptom.SAMPLER_MISMATCH: "has a sampler that does not fit",
    Symptom.UNDERTRAINED: "was still improving",
    Symptom.MEMORISING: "memorised its examples",
    Symptom.TERMINAL_SIGNAL: "ends its noising with signal left",
    Symptom.IMPRECISE_SCHEDULE: "has an imprecise noise schedule",
    Symptom.FROZEN_PARAMETERS: "left weights untrained",
}
"""Every symptom as the end of "the trial ..."."""


def number(value: ParamValue) -> str:
    """Two or three digits, ``3.5e-3``, ``0.073``, ``1.87``; other values as in a study file."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str | int):
        return str(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    size = abs(float(f"{value:.1e}"))  # as it will be shown: 0.00996 is written 0.01
    if not 1e-2 <= size < 1e4:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    if size >= 1000:
        return f"{value:.0f}"
    return f"{value:.2g}" if size < 0.1 else f"{value:.3g}"


def percent(share: float) -> str:
    """``12%``, ``1.9%``; what is nearly 0 or 1 says only that."""
    if share < 0.001:
        return "<0.1%"
    if share > 0.999:
        return ">99.9%"
    return f"{share:.1%}" if share < 0.095 or share > 0.99 else f"{share:.0%}"


def params_text(params: Params) -> str:
    """``learning_rate=2.1e-3 max_grad_norm=1``"""
    return " ".join(f"{name}={number(value)}" for name, value in params.items())


def setting_text(params: Params) -> str:
    """``learning_rate 2.1e-3  max_grad_norm 1``: the rate first, the others as they come."""
    ordered = sorted(params.items(), key=lambda item: item[0] != "learning_rate")
    return "  ".join(f"{name} {number(value)}" for name, value in ordered)


def count(number_of: int, noun: str) -> str:
    """``1 trial``, ``2 trials``"""
    return f"{number_of} {noun}" if number_of == 1 else f"{number_of} {noun}s"


def octaves_words(octaves: float) -> str:
    """``one octave``, ``0.5 octaves``"""
    return "one octave" if octaves == 1 else f"{number(octaves)} octaves"


def times_words(octaves: float) -> str:
    """``twice the rate``, ``1.4 times the rate``"""
    factor = 2.0**octaves
    return "twice the rate" if factor == 2 else f"{number(factor)} times the rate"


def symptom_words(symptom: str, *, is_unstable: bool = True) -> str:
    """A symptom as it is stored, in words.

    A network that did not learn was either too timid or, above the rates of stable ones, killed.
    A short trial that was killed has no symptom of its own yet, or a warning about something else.
    """
    if symptom == Symptom.NOT_LEARNING and is_unstable:
        return "never learned, its rate too high"
    if is_unstable and symptom not in DIVERGENCES:
        return "had learned nothing where lower rates had"
    known = {member.value: words for member, words in SYMPTOM_WORDS.items()}
    return known.get(symptom, symptom.replace("_", " ") or "ended badly")
