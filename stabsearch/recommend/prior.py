"""What is believed of an edge before a trial was seen."""

from __future__ import annotations

import math

INTERCEPT_SPREAD = 4.0
"""Standard deviation of lr50 around the middle of the searched range, in octaves."""

LOG_SLOPE, LOG_SLOPE_SPREAD = math.log(5.0), 1.0
"""Mean and standard deviation of the logarithm of the slope per octave. Measured were 8.7 (7 to
14) where clipping guards and 1.4 without; full-batch descent has a step. With log 3 and 0.8 a
search for an edge of slope 8.7 took a fifth more trials to be as sure (docs/decisions.md)."""
