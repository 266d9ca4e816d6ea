from __future__ import annotations

import sys

import datasets
import numpy as np
import pytest
from PIL import Image

from stabsearch.diffusion.datasets.hubs import (
    _torchvision_images,
    _training_part,
    huggingface,
    torchvision,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
EXPECTED = PIXELS.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
IMAGES = [Image.fromarray(image) for image in PIXELS]


# torchvision: no dependency, so its data sets are lists of what they return


def test_torchvision_that_is_not_installed_is_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision", None)

    with pytest.raises(ValueError, match=r"needs the library torchvision.*Install it: pip"):
        torchvision(dataset="MNIST", root=str(tmp_path))


def test_torchvision_of_another_torch_is_named_with_the_reason(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ValueError, match=r"cannot be imported \(operator nms does not exist\)"):
        torchvision(dataset="MNIST", root=str(tmp_path))


def test_labelled_images_become_an_array():
    found = [(image, label) for label, image in enumerate(IMAGES)]

    assert np.array_equal(_torchvision_images(found, "CIFAR10", None, None), EXPECTED)
    assert np.array_equal(_torchvision_images(found, "CIFAR10", None, 3), EXPECTED[::2])
    assert _torchvision_images(found, "CIFAR10", 4, None).shape == (6, 3, 4, 4)


def test_labelled_grey_images_have_one_channel():
    found = [(image.convert("L"), 0) for image in IMAGES]

    assert _torchvision_images(found, "MNIST", None, None).shape == (6, 1, 8, 8)


def test_examples_that_are_no_images_are_named():
    with pytest.raises(ValueError, match=r"example 0 of Videos cannot be read .* it is a ndarray"):
        _torchvision_images([(PIXELS, 0)], "Videos", None, None)


def _mnist(root, train=True, transform=None, download=False): ...


def _svhn(root, split="train", transform=None, download=False): ...


def _folder(root, transform=None): ...


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_mnist, {"train": True, "download": False}),
        (_svhn, {"split": "train", "download": False}),
        (_folder, {}),
    ],
)
def test_training_part_is_asked_for_as_the_data_set_knows_it(make, expected):
    assert _training_part(make) == expected


# huggingface


@pytest.fixture
def saved(tmp_path):
    def save(columns, features=None):
        rows = datasets.Dataset.from_dict(columns, features=features)
        rows.save_to_disk(tmp_path / "rows")
        return str(tmp_path / "rows")

    return save


def image_features(**options):
    return datasets.Features({"image": datasets.Image(**options)})


def test_saved_images_become_an_array(saved):
    path = saved({"image": IMAGES}, image_features())

    assert np.array_equal(huggingface(path=path), EXPECTED)
    assert np.array_equal(huggingface(path=path, max_examples=3), EXPECTED[::2])
    assert huggingface(path=path, image_size=4).shape == (6, 3, 4, 4)


def test_images_saved_undecoded_are_decoded(saved, tmp_path):
    IMAGES[0].save(tmp_path / "one.png")
    content = {"bytes": (tmp_path / "one.png").read_bytes(), "path": None}
    path = saved({"image": [content]}, image_features(decode=False))

    assert np.array_equal(huggingface(path=path), EXPECTED[:1])


@pytest.mark.parametrize("content", [b"no image", None], ids=["damaged", "missing"])
def test_image_that_cannot_be_read_is_numbered(saved, content):
    damaged = content and {"bytes": content, "path": None}
    path = saved({"image": [IMAGES[0], damaged]}, image_features())

    with pytest.raises(ValueError, match=r"example 1 of .*rows: column image cannot be read"):
        huggingface(path=path)


def test_split_of_several_is_chosen(tmp_path):
    rows = datasets.Dataset.from_dict({"image": IMAGES}, features=image_features())
    datasets.DatasetDict(train=rows.select(range(4)), test=rows).save_to_disk(tmp_path / "all")
    path = str(tmp_path / "all")

    assert np.array_equal(huggingface(path=path, split="train"), EXPECTED[:4])
    with pytest.raises(ValueError, match=r"is a set of splits\. Set data\.split .* train, test\."):
        huggingface(path=path)
    with pytest.raises(ValueError, match=r"has no split val\. Set data\.split .* train, test\."):
        huggingface(path=path, split="val")


def test_split_of_what_has_none_is_an_error(saved):
    path = saved({"image": IMAGES}, image_features())

    with pytest.raises(ValueError, match=r"has no splits\. Remove data\.split"):
        huggingface(path=path, split="train")


def test_lists_of_floats_are_taken_as_they_are(saved):
    rows = np.random.default_rng(0).normal(size=(6, 4, 2)).astype(np.float32)
    path = saved({"row": rows.tolist(), "label": [0] * 6})

    assert np.array_equal(huggingface(path=path, column="row"), rows)
    assert np.array_equal(huggingface(path=path, column="row", max_examples=2), rows[::3])


def test_arrays_of_bytes_are_pixels(saved):
    features = datasets.Features({"image": datasets.Array3D((3, 8, 8), "uint8")})
    path = saved({"image": PIXELS.transpose(0, 3, 1, 2)}, features)

    assert np.array_equal(huggingface(path=path), EXPECTED)


@pytest.mark.parametrize(
    ("column", "complaint"),
    [
        ("pixels", r"no column pixels; it has ragged, count, word\. Correct data\.column"),
        ("ragged", "column ragged holds values of type object"),
        ("count", "column count holds values of type int64"),
        ("word", "column word holds values of type"),
    ],
)
def test_columns_that_are_no_examples_are_named(saved, column, complaint):
    path = saved({"ragged": [[1.0], [1.0, 2.0]], "count": [[1], [2]], "word": ["x", "y"]})

    with pytest.raises(ValueError, match=complaint):
        huggingface(path=path, column=column)


def test_size_for_what_is_no_image_is_an_error(saved):
    with pytest.raises(ValueError, match=r"data\.image_size is for images\. Remove it"):
        huggingface(path=saved({"row": [[1.0], [2.0]]}), column="row", image_size=8)


def test_folder_that_is_no_saved_data_set_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read as a saved .* Save it there with"):
        huggingface(path=str(tmp_path))


def test_library_that_is_not_installed_is_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(ValueError, match=r"needs the library datasets.*stabsearch\[huggingface\]"):
        huggingface(path=str(tmp_path))
