from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from stabsearch.diffusion.datasets import DATASETS, digits, make_dataset
from stabsearch.diffusion.reference_loss import covariance_eigenvalues


def test_digits_are_split_without_overlap_and_scaled():
    dataset = make_dataset(DATASETS["digits"], {}, 1 / 6, 0)
    everything = np.concatenate([dataset.train, dataset.held_out])

    assert dataset.sample_shape == (1, 8, 8)
    assert len(everything) == 1797
    assert everything.min() == -1
    assert everything.max() == 1
    assert np.array_equal(
        np.sort(everything.reshape(1797, -1), axis=0), np.sort(digits().reshape(1797, -1), axis=0)
    )


def test_split_takes_the_permutation_of_its_seed_held_out_first():
    examples = np.arange(20.0).reshape(10, 2)
    order = np.random.default_rng(3).permutation(10)

    dataset = make_dataset(lambda: examples, {}, 0.2, 3)

    assert np.array_equal(dataset.held_out, examples[order[:2]])
    assert np.array_equal(dataset.train, examples[order[2:]])


def test_split_depends_on_its_seed_only():
    first, again, other = (make_dataset(digits, {}, 0.2, seed) for seed in (0, 0, 1))

    assert np.array_equal(first.held_out, again.held_out)
    assert not np.array_equal(first.held_out, other.held_out)


@pytest.mark.parametrize(
    ("examples", "complaint"),
    [
        (np.zeros(5), "shape"),
        (np.zeros((1, 3)), "at least 2"),
        (np.zeros((0, 3)), "at least 2"),
        (np.array([[1.0], [np.nan]]), "NaN"),
        (np.ones((4, 3)), "equal"),
    ],
    ids=["flat", "single", "none", "nan", "constant"],
)
def test_data_that_cannot_be_trained_on_is_refused(examples, complaint):
    with pytest.raises(ValueError, match=complaint):
        make_dataset(lambda: examples, {}, 0.2, 0)


def test_broken_numbers_are_counted_and_the_first_is_named(tmp_path):
    images = np.zeros((10, 2, 3, 3), dtype=np.float32)
    images[4, 1, 0, 2] = np.nan
    images[4, 1, 2, 2] = np.inf
    images[7, 0, 0, 0] = -np.inf
    path = str(tmp_path / "images.npy")
    np.save(path, images)

    with pytest.raises(ValueError, match="NaN or Inf") as error:
        make_dataset(DATASETS["array"], {"path": path}, 0.2, 0)

    assert str(error.value) == (
        f"{path} holds NaN or Inf (as float32): 3 of 180 numbers, in 2 of 10 examples, the first "
        "at index [4, 1, 0, 2]. Mend those examples, or leave them out."
    )


NORMAL = np.random.default_rng(0).normal(size=(200, 16))


@pytest.mark.parametrize("std", [0.04, 1.0, 5.0, 9.0])
def test_data_of_an_unusual_scale_is_taken(std):
    """Latents have a standard deviation of about 5."""
    dataset = make_dataset(lambda: std * NORMAL, {}, 0.2, 0)

    assert dataset.train.std() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        (
            60 * NORMAL,
            r"the data has a standard deviation of \d\d.*, while .* numbers by about \d\d\.",
        ),
        (0.01 * NORMAL, r"standard deviation of 0\.01, .* numbers by about 0\.01\."),
        (1000 + 50 * NORMAL, r"Subtract their mean, 999, and divide by about 50\."),
        (
            np.random.default_rng(0).uniform(0, 255, size=(50, 1, 4, 4)),
            r"Pixels of 0 \.\. 255 belong in \[-1, 1\]: x / 127\.5 - 1\.",
        ),
    ],
    ids=["large", "small", "offset", "pixels"],
)
def test_data_whose_scale_is_not_that_of_the_noise_is_refused(examples, words):
    with pytest.raises(ValueError, match=words):
        make_dataset(lambda: examples, {}, 0.2, 0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits", {}),
        ("mixture", {}),
        ("gaussian", {}),
        ("mixture", {"radius": 50.0}),
        ("gaussian", {"num_dimensions": 256, "decay": 2.0}),
    ],
)
def test_a_scale_that_the_study_writes_is_as_it_is_meant(name, options):
    make_dataset(DATASETS[name], options, 0.2, 0)


def test_dataset_is_read_in_place_from_read_only_shared_memory():
    channels_last = np.random.default_rng(0).normal(size=(30, 4, 4, 3))
    dataset = make_dataset(lambda: np.moveaxis(channels_last, -1, 1), {}, 0.2, 0)
    shared = []
    header = pickle.dumps(dataset, protocol=5, buffer_callback=shared.append)
    copies = [bytes(buffer.raw()) for buffer in shared]

    restored = pickle.loads(header, buffers=copies)

    assert [len(copy) for copy in copies] == [dataset.train.nbytes, dataset.held_out.nbytes]
    assert dataset.train.flags.c_contiguous
    assert not restored.train.flags.writeable
    assert not restored.held_out.flags.writeable
    assert np.array_equal(restored.train, dataset.train)
    assert np.array_equal(
        covariance_eigenvalues(restored.train), covariance_eigenvalues(dataset.train)
    )


def test_examples_of_a_read_only_array_can_be_split():
    examples = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    examples.flags.writeable = False

    dataset = make_dataset(lambda: examples, {}, 0.2, 0)

    assert (len(dataset.train), len(dataset.held_out)) == (8, 2)


def test_digits_cost_no_library_that_other_data_needs():
    script = (
        "import sys; from stabsearch.diffusion.datasets import digits; digits(); "
        "heavy = {'PIL', 'pyarrow', 'pandas', 'datasets', 'torchvision', 'torch', 'sklearn'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert (done.stdout.strip(), done.stderr) == ("[]", "")
