from __future__ import annotations

import numpy as np
import pytest

from stabsearch.diffusion.datasets import DATASETS, make_dataset


def test_digits_are_split_without_overlap_and_scaled():
    dataset = make_dataset(DATASETS["digits"], {}, 1 / 6, 0)
    everything = np.concatenate([dataset.train, dataset.held_out])

    assert dataset.sample_shape == (1, 8, 8)
    assert len(everything) == 1797
    assert everything.min() == -1
    assert everything.max() == 1
    assert np.array_equal(
        np.sort(everything.reshape(1797, -1), axis=0),
        np.sort(DATASETS["digits"]().reshape(1797, -1), axis=0),
    )


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    assert np.array_equal(DATASETS["digits"]()[:, 0], (load_digits().images / 8 - 1))


def test_split_depends_on_its_seed_only():
    first, again, other = (make_dataset(DATASETS["digits"], {}, 0.2, seed) for seed in (0, 0, 1))

    assert np.array_equal(first.held_out, again.held_out)
    assert not np.array_equal(first.held_out, other.held_out)


@pytest.mark.parametrize(
    ("examples", "complaint"),
    [
        (np.zeros(5), "shape"),
        (np.zeros((1, 3)), "at least 2"),
        (np.array([[1.0], [np.nan]]), "NaN"),
        (np.ones((4, 3)), "equal"),
    ],
    ids=["flat", "single", "nan", "constant"],
)
def test_data_that_cannot_be_trained_on_is_refused(examples, complaint):
    with pytest.raises(ValueError, match=complaint):
        make_dataset(lambda: examples, {}, 0.2, 0)
