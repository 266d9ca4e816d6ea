"""Timesteps and the learning-rate gauge as people read them."""

from __future__ import annotations

from stabsearch.records import TrialFacts
from stabsearch.stability.lr_gauge import MAX_OCTAVES

_PARTS = {
    2: "half", 3: "third", 4: "quarter", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth",
    9: "ninth", 10: "tenth", 12: "twelfth", 16: "sixteenth", 20: "twentieth",
}  # fmt: skip
"""What one of so many equal parts is called; others are written 1/24."""


def describe_timesteps(facts: TrialFacts, timestep_bin: int) -> str:
    """``timesteps 900-999, the noisiest tenth``"""
    low, high = facts.timestep_range(timestep_bin)
    place = bin_place(timestep_bin, len(facts.bin_edges) - 1)
    return f"{timestep_range(low, high)}, {place}"


def timestep_range(low: int, high: int) -> str:
    """``timesteps 900-999``, ``timestep 7``"""
    return f"timestep {low}" if low == high else f"timesteps {low}-{high}"


def bin_place(timestep_bin: int, num_bins: int) -> str:
    """``the noisiest tenth``, ``the 4th tenth from the clean end``: bin 0 is the cleanest."""
    if num_bins == 1:
        return "all there are"
    part = _PARTS.get(num_bins, f"1/{num_bins}")
    from_clean, from_noisy = timestep_bin + 1, num_bins - timestep_bin
    if num_bins == 2:
        return f"the {'cleaner' if from_clean == 1 else 'noisier'} {part}"
    if from_clean == 1:
        return f"the cleanest {part}"
    if from_noisy == 1:
        return f"the noisiest {part}"
    if from_clean == from_noisy:
        return f"the middle {part}"
    nearer, end = min((from_clean, "clean"), (from_noisy, "noisy"))
    return f"the {ordinal(nearer)} {part} from the {end} end"


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``11th``, ``22nd``"""
    is_teen = number % 100 in (11, 12, 13)
    return f"{number}{'th' if is_teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def describe_gauge(octaves: float) -> str:
    """What the learning-rate gauge says, as a sentence without its full stop."""
    if abs(octaves) < 0.5:
        return "the learning rate is about the best one"
    side = "above" if octaves > 0 else "below"
    return f"the learning rate is {gauge_distance(octaves)} {side} the best one"


def gauge_distance(octaves: float) -> str:
    """``about 2.0 octaves (x4)``; ``far``, where the gauge only gives the direction."""
    size = abs(octaves)
    return "far" if size >= MAX_OCTAVES else f"about {size:.1f} octaves (x{2**size:.2g})"
