"""How large each sample's own gradient is: what per-timestep gradient norms are made of.

The norm of the batch gradient says nothing about one timestep. Ghost norms read the per-sample
norms off the training backward; the probe takes the per-sample gradients themselves, for models
with layers that ghost norms do not know.
"""

from stabsearch.training.gradient_norms.ghost import GhostNorms
from stabsearch.training.gradient_norms.probe import probe_squared_norms

__all__ = ["GhostNorms", "probe_squared_norms"]
