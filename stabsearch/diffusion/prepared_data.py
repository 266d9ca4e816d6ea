"""A data set ready for every trial of a study: its split, and what the references need of it.

numpy only: a study prepares its data once, in the driver, and shares it with the workers of a
node through shared memory. Nothing here may write into the arrays.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabsearch.diffusion.datasets import DATASETS, Dataset, make_dataset
from stabsearch.diffusion.reference_loss import DataStatistics, data_statistics
from stabsearch.errors import SpecError, exception_text
from stabsearch.references import resolve
from stabsearch.spec import DataSpec


@dataclass(frozen=True, slots=True)
class PreparedData:
    dataset: Dataset
    statistics: DataStatistics
    """Of the examples to train on."""


def prepare_data(spec: DataSpec) -> PreparedData:
    """Load the examples that ``data`` names and hold some out; kept for the next call.

    Raises ValueError for data that cannot be read, or that no denoiser can be trained on: a
    SpecError that names the function for whatever a user's own raises.
    """
    return _prepared(spec.model_dump_json())


@functools.lru_cache(maxsize=2)
def _prepared(data: str) -> PreparedData:
    # The key is JSON because an option may be a list, which cannot be hashed.
    spec = DataSpec.model_validate(json.loads(data))
    load = DATASETS.get(spec.name) or _own_function(spec.name)
    dataset = make_dataset(
        load, dict(spec.model_extra or {}), spec.held_out_fraction, spec.split_seed
    )
    return PreparedData(dataset, data_statistics(dataset.train))


def _own_function(name: str) -> Callable[..., Any]:
    """What a reference names; its errors, of any type, become sentences about it."""
    function = resolve(name, "data.name")

    def load(**options: Any) -> Any:
        try:
            returned = function(**options)
        except (Exception, SystemExit) as error:  # a user's code may exit
            raise SpecError(
                f"loading the data raised {exception_text(error)}. Mend the function that "
                f"data.name names, {name}, or correct the other fields of data."
            ) from error
        return _numbers(returned, name)

    return load


def _numbers(returned: Any, name: str) -> Any:
    """The array that a user's function returned, or meant to."""
    if returned is None:
        raise SpecError(
            f"{name} returned None. Let the function that data.name names return its array of "
            "numbers [N, ...]."
        )
    try:
        array = np.asarray(returned)
        # Numbers keep their type here, and are converted where all data is.
        return array if array.dtype.kind in "biuf" else array.astype(np.float32)
    except Exception as error:
        raise SpecError(
            f"{name} returned a value of type {type(returned).__name__} that is no array of "
            f"numbers [N, ...] ({exception_text(error)}). Mend the function that data.name names."
        ) from error
