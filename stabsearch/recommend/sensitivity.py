"""How much the learning rate matters: one number that compares studies.

Wortsman et al. 2023 (arXiv 2309.14322): the mean over the searched rates, evenly in their
logarithm, of min(loss, loss of an untrained network) minus the best loss of the range. Divided by
u = L_iso - L_lin it compares across data and prediction types.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stabsearch.recommend.landscape import Landscape
from stabsearch.recommend.space import LEARNING_RATE, Floats
from stabsearch.recommend.surface import fit_surface
from stabsearch.records import Params

STEPS_PER_OCTAVE = 16
LEAST_UNIT = 1e-4
"""Share of C0 below which u measures nothing: of data that are white, or nearly so."""


def lr_sensitivity(landscape: Landscape, params: Params) -> float | None:
    """At the clip and the other parameters of ``params``; None where too little is known, as where
    a part of the searched rates was never tried.

    The loss comes from a surface through the log of the trials' held-out losses, cut off at that
    of the best constant, which an unstable trial has.
    """
    axis = landscape.space.axis(LEARNING_RATE)
    constants = [r.constant_loss for r in landscape.records if r.constant_loss]
    units = [r.loss_unit for r in landscape.records if r.loss_unit]
    if axis is None or landscape.surface is None or not constants or not units:
        return None
    constant, unit = float(np.median(np.array(constants))), float(np.median(np.array(units)))
    if unit < LEAST_UNIT * constant:
        return None
    low, high = axis.position(axis.low), axis.position(axis.high)
    octaves = np.linspace(low, high, int((high - low) * STEPS_PER_OCTAVE) + 2)
    points = np.repeat(landscape.space.points([params]), len(octaves), axis=0)
    points[:, landscape.space.axes.index(axis)] = octaves
    if not landscape.surface.is_measured(points, (LEARNING_RATE,)).all():
        return None
    losses = [replace(record, score=record.eval_loss) for record in landscape.records]
    surface = fit_surface(
        landscape.space, losses, constant, landscape.unstable, like=landscape.surface
    )
    if surface is None:
        return None
    return mean_excess(octaves, surface.predict(points)) / unit


def mean_excess(octaves: Floats, losses: Floats) -> float:
    """Mean of the losses above the best of them, by trapezoids along ``octaves``."""
    area = np.trapezoid(losses - losses.min(), octaves)
    return float(area / (octaves[-1] - octaves[0]))
