"""A data set ready for every trial of a study: its split, and what the references need of it.

numpy only: a study prepares its data once, in the driver, and shares it with the workers of a
node through shared memory. Nothing here may write into the arrays.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

from stabsearch.diffusion.datasets import DATASETS, Dataset, make_dataset
from stabsearch.diffusion.reference_loss import DataStatistics, data_statistics
from stabsearch.references import resolve
from stabsearch.spec import DataSpec


@dataclass(frozen=True, slots=True)
class PreparedData:
    dataset: Dataset
    statistics: DataStatistics
    """Of the examples to train on."""


def prepare_data(spec: DataSpec) -> PreparedData:
    """Load the examples that ``data`` names and hold some out; kept for the next call.

    Raises ValueError for data that cannot be read, or that no denoiser can be trained on, and
    whatever a user's own function raises.
    """
    return _prepared(spec.model_dump_json())


@functools.lru_cache(maxsize=2)
def _prepared(data: str) -> PreparedData:
    # The key is JSON because an option may be a list, which cannot be hashed.
    spec = DataSpec.model_validate(json.loads(data))
    load = DATASETS.get(spec.name) or resolve(spec.name)
    dataset = make_dataset(
        load, dict(spec.model_extra or {}), spec.held_out_fraction, spec.split_seed
    )
    return PreparedData(dataset, data_statistics(dataset.train))
