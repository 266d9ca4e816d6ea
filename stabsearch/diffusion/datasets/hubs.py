"""Data sets that other libraries keep on disk. Nothing is ever downloaded: trials run in parallel,
and often where there is no network.
"""

# N = examples, C = channels, H, W = rows and columns

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabsearch.diffusion.datasets.files import as_examples, existing_path, reading
from stabsearch.diffusion.datasets.images import Pixels, evenly_chosen, pixels, stack_images

Array = NDArray[np.float32]

TRAINING_PART = {"train": True, "split": "train", "download": False}
"""How torchvision's data sets are asked for their training part; each knows some of these."""


def torchvision(
    *, dataset: str, root: str, image_size: int | None = None, max_examples: int | None = None
) -> Array:
    """The training images of ``torchvision.datasets.<dataset>`` as ``[N, C, H, W]`` in [-1, 1].

    ``root`` is the folder to which torchvision downloaded them. Without ``image_size`` the images
    must all have one size; with it they are cropped to their central square and resized.
    ``max_examples`` takes that many, spread evenly over the data set.

    Raises ValueError if torchvision or the files are not there, or if the examples are no images.
    """
    library = _imported("torchvision.datasets", "pip install torchvision, as fits your torch")
    if dataset not in library.__all__:
        raise ValueError(
            f"torchvision.datasets has no data set {dataset}. Write the name of its class, "
            "such as MNIST or CIFAR10."
        )
    make = getattr(library, dataset)
    what = f"torchvision.datasets.{dataset}"
    folder = existing_path(root)
    remedy = f"Download it there before the study: {what}({str(folder)!r}, download=True)."
    with reading(folder, what, remedy):
        found = make(root=str(folder), **_training_part(make))
    return _torchvision_images(found, what, image_size, max_examples)


def huggingface(
    *,
    path: str,
    column: str = "image",
    split: str | None = None,
    image_size: int | None = None,
    max_examples: int | None = None,
) -> Array:
    """A column of a Hugging Face data set that was saved with ``save_to_disk``.

    Images become ``[N, C, H, W]`` in [-1, 1], as for ``torchvision``. Lists of numbers become
    ``[N, ...]`` under the rules of ``array``. ``split`` chooses from a DatasetDict.

    Raises ValueError if the library, the data set, the split or the column is not there, or if
    the column holds neither images nor lists of numbers of one length.
    """
    library = _imported("datasets", "pip install 'stabsearch[huggingface]'")
    folder = existing_path(path)
    remedy = "Save it there with save_to_disk of the datasets library."
    with reading(folder, "a saved Hugging Face data set", remedy):
        found = library.load_from_disk(str(folder))
    rows = _split_of(found, split, path)
    if column not in rows.column_names:
        raise ValueError(
            f"{path} has no column {column}; it has {', '.join(rows.column_names)}. "
            "Correct data.column."
        )
    rows = rows.select_columns([column]).select(evenly_chosen(len(rows), max_examples))
    what = f"{path}: column {column}"
    if isinstance(rows.features[column], library.Image):
        decoded = rows.cast_column(column, library.Image())  # also those saved undecoded
        return _images(lambda index: decoded[index][column], len(rows), image_size, what)
    if image_size is not None:
        raise ValueError(f"{what} holds no images; data.image_size is for images. Remove it.")
    # Without dtype=None, integers of every kind would come as int64: pixels would not be known.
    values = rows.with_format("numpy", dtype=None)[:][column]
    return as_examples(np.asarray(values), what)


def _imported(module: str, remedy: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        name = module.partition(".")[0]
        raise ValueError(
            f"the data needs the library {name}, which cannot be imported ({error}). "
            f"Install it: {remedy}."
        ) from error


def _training_part(make: Callable[..., Any]) -> dict[str, Any]:
    known = inspect.signature(make).parameters
    return {name: value for name, value in TRAINING_PART.items() if name in known}


def _torchvision_images(
    found: Sequence[Any], what: str, image_size: int | None, max_examples: int | None
) -> Array:
    """Images of (image, label) pairs."""
    chosen = evenly_chosen(len(found), max_examples)
    return _images(lambda index: found[chosen[index]][0], len(chosen), image_size, what)


def _split_of(found: Any, split: str | None, path: str) -> Any:
    """The rows of a saved Dataset, or of one split of a saved DatasetDict."""
    splits = list(found) if isinstance(found, dict) else None
    if splits is None and split is None:
        return found
    if splits is None:
        raise ValueError(f"{path} has no splits. Remove data.split.")
    if split not in splits:
        wanted = "is a set of splits" if split is None else f"has no split {split}"
        raise ValueError(f"{path} {wanted}. Set data.split to one of {', '.join(splits)}.")
    return found[split]


def _images(
    image_at: Callable[[int], Any], num_images: int, image_size: int | None, what: str
) -> Array:
    return stack_images(
        [_image_pixels(image_at, index, image_size, what) for index in range(num_images)]
    )


def _image_pixels(
    image_at: Callable[[int], Any], index: int, image_size: int | None, what: str
) -> Pixels:
    from PIL.Image import Image

    with reading(f"example {index} of {what}", "an image of 8 bits per channel", "Remove it."):
        image = image_at(index)
        if not isinstance(image, Image):
            raise TypeError(f"it is a {type(image).__name__}")
        return pixels(image, image_size)
