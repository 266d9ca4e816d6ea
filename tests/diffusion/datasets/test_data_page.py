"""Every example of docs/data.md loads, from files such as it names."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from datasets import Dataset as HuggingFaceDataset
from datasets import DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image

from stabsearch.diffusion.datasets import DATASETS, make_dataset
from stabsearch.references import resolve

PAGE = Path(__file__).parents[3] / "docs" / "data.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S)
EXAMPLES = {data["name"]: data for data in (yaml.safe_load(block)["data"] for block in BLOCKS)}
SPLIT_FIELDS = ("name", "held_out_fraction", "split_seed")


def random_images(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(p) for p in generator.integers(0, 256, (count, 20, 24, 3), np.uint8)]


def write_faces() -> None:
    Path("data/faces").mkdir()
    for index, image in enumerate(random_images(4)):
        image.save(f"data/faces/{index}.png")


def write_sprites() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
    np.savez("data/sprites.npz", images=images, labels=np.arange(5))


def write_sensors() -> None:
    Path("data/sensors").mkdir()
    rows = np.random.default_rng(0).normal(size=(7, 3))
    frame = pd.DataFrame(rows, columns=["pressure", "flow", "temperature"]).assign(day="monday")
    frame.to_parquet("data/sensors/week.parquet")


def write_flowers() -> None:
    images = HuggingFaceDataset.from_dict(
        {"image": random_images(3)}, features=Features({"image": ImageFeature()})
    )
    DatasetDict({"train": images, "test": images}).save_to_disk("data/flowers")


def write_my_data() -> None:
    Path("my_data.py").write_text(
        "import numpy as np\ndef load(size): return np.eye(2 * size).reshape(-1, 2, size)"
    )


FILES = {
    "image_folder": write_faces,
    "array": write_sprites,
    "parquet": write_sensors,
    "huggingface": write_flowers,
    "my_data:load": write_my_data,
}
SHAPES = {
    "digits": (1797, 1, 8, 8),
    "image_folder": (4, 3, 16, 16),
    "array": (5, 3, 8, 6),
    "parquet": (7, 3),
    "huggingface": (3, 3, 16, 16),
    "mixture": (5000, 2),
    "gaussian": (4096, 3),
    "my_data:load": (64, 2, 32),
}


@pytest.fixture
def files_of(tmp_path, monkeypatch):
    """Writes the files that an example names, into the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("data").mkdir()
    yield lambda name: FILES.get(name, lambda: None)()
    sys.modules.pop("my_data", None)


def loader(name):
    return DATASETS.get(name) or resolve(name)


def options_of(example):
    return {key: value for key, value in example.items() if key not in SPLIT_FIELDS}


@pytest.mark.parametrize("name", SHAPES)
def test_example_of_the_page_loads_the_files_it_names(name, files_of):
    files_of(name)
    example = EXAMPLES[name]

    dataset = make_dataset(
        loader(name), options_of(example), example.get("held_out_fraction", 1 / 6), 0
    )

    assert (len(dataset.train) + len(dataset.held_out), *dataset.sample_shape) == SHAPES[name]


def test_torchvision_example_fits_the_loader_and_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # no dependency; here it may be there

    with pytest.raises(ValueError, match=r"needs the library torchvision.* Install it: pip"):
        loader("torchvision")(**options_of(EXAMPLES["torchvision"]))


def test_page_has_an_example_of_every_built_in_and_of_ones_own():
    assert set(EXAMPLES) == {*DATASETS, "my_data:load"}


def test_pages_table_lists_the_fields_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \|.*\|(.*)\|$", PAGE.read_text(), re.M)
    listed = {
        name: re.findall(r"`([a-z_]+)`(?= \(|[,;]| and|\s*$)", fields) for name, fields in rows
    }

    assert listed == {
        name: list(inspect.signature(load).parameters) for name, load in DATASETS.items()
    }
