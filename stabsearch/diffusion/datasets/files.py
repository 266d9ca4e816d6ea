"""A user's own files: a folder of images, a NumPy array, columns of Parquet files.

Paths may begin with ``~``; relative ones start at the current directory. Every mistake is one
ValueError that names the file and the remedy.
"""

# N = examples, C = channels, H, W = rows and columns, d = numbers per example

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stabsearch.diffusion.datasets.images import (
    Pixels,
    evenly_chosen,
    pixels,
    signed_unit,
    stack_images,
)

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

IMAGE_SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"]
)

PIXEL_CHANNELS = (1, 3, 4)
"""What [N, C, H, W] of pixels may have: grey, RGB, RGB with alpha."""

NUMPY_SIGNATURES = (b"\x93NUMPY", b"PK")
"""How .npy and .npz (zip) files begin. NumPy takes any other file for a pickle and says so."""


def image_folder(
    *, path: str, image_size: int, channels: int = 3, max_examples: int | None = None
) -> Array:
    """The images below a folder as ``[N, channels, image_size, image_size]`` in [-1, 1].

    Folders are searched recursively and files sorted by their path; hidden files and what is no
    image by its suffix are left out. Each image is turned upright, cropped to its central square
    and resized. ``max_examples`` takes that many, spread evenly over the sorted files.

    Raises ValueError if there is no such folder, no image below it, or one that cannot be read.
    """
    files = _image_files(existing_path(path))
    chosen = [files[index] for index in evenly_chosen(len(files), max_examples)]
    with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without holding the GIL
        images = list(pool.map(lambda file: _read_image(file, image_size, channels), chosen))
    return stack_images(images)


def array(*, path: str, key: str | None = None, channels_last: bool = False) -> Array:
    """The array ``[N, ...]`` of a .npy file, or the array ``key`` of an .npz file.

    Floats are taken as they are. uint8 means pixels: 0 .. 255 become [-1, 1], and ``[N, H, W]``
    becomes ``[N, 1, H, W]``. With ``channels_last``, ``[N, H, W, C]`` becomes ``[N, C, H, W]``.

    Raises ValueError if there is no such file or array, if it holds Python objects, or if its
    type or shape leaves open what is meant.
    """
    values = _load_array(existing_path(path), key)
    if channels_last:
        if values.ndim != 4:
            raise ValueError(
                f"data.channels_last is for an array [N, H, W, C], but {path} has shape "
                f"{list(values.shape)}. Remove it."
            )
        values = np.moveaxis(values, -1, 1)
    return as_examples(values, path)


def parquet(*, path: str, columns: list[str] | None = None, standardize: bool = True) -> Array:
    """Numeric columns of a Parquet file, or of all below a folder, as ``[N, len(columns)]``.

    Without ``columns``, all of them (but pandas' index), which then must all be numeric. A single
    column of lists of one length d gives ``[N, d]``. ``standardize`` brings every column to mean
    0 and variance 1 over all examples, because the noise has variance 1.

    Raises ValueError that names the columns which are missing, not numeric, incomplete or, to be
    standardized, constant.
    """
    values, names = _read_columns(_parquet_files(existing_path(path)), columns, path)
    incomplete = _chosen(names, ~np.isfinite(values).all(axis=0))
    if incomplete:
        raise ValueError(
            f"{path}: missing, NaN or infinite values in {_listed(incomplete)}. "
            "Drop those rows or columns."
        )
    return (_standardized(values, names, path) if standardize else values).astype(np.float32)


def existing_path(path: str) -> Path:
    """The path with ``~`` expanded. Raises ValueError if nothing is there."""
    found = Path(path).expanduser()
    if not found.exists():
        raise ValueError(
            f"{path} does not exist (looked for {found.absolute()}). Correct the path of the "
            "data; a relative one starts at the current directory."
        )
    return found


@contextmanager
def reading(what: object, kind: str, remedy: str) -> Iterator[None]:
    """Whatever a reader raises becomes one ValueError that says what was read."""
    try:
        yield
    except Exception as error:  # damaged bytes make a decoder raise anything
        reason = str(error).rstrip(". ")
        raise ValueError(f"{what} cannot be read as {kind}: {reason}. {remedy}") from error


def as_examples(values: NDArray[Any], what: str) -> Array:
    """Floats as they are; uint8 as pixels in [-1, 1], ``[N, H, W]`` with a channel axis.

    Raises ValueError for other types, whose scale is unknown, and for 4-D pixels that are not
    ``[N, C, H, W]`` with 1, 3 or 4 channels: where the channels are is not guessed.
    """
    if values.dtype.kind == "f":
        return np.ascontiguousarray(values, dtype=np.float32)
    if values.dtype != np.uint8:
        raise ValueError(
            f"{what} holds values of type {values.dtype}, whose scale is unknown. Save pixels as "
            "uint8, and other numbers as floats of about unit variance."
        )
    if values.ndim == 4 and values.shape[1] not in PIXEL_CHANNELS:
        raise ValueError(
            f"{what} holds pixels (uint8) of shape {list(values.shape)}, which is not "
            "[N, C, H, W] with 1, 3 or 4 channels. Use data.channels_last for [N, H, W, C], and "
            "floats for what is no image."
        )
    return signed_unit(values[:, None] if values.ndim == 3 else values)


def _image_files(folder: Path) -> list[Path]:
    """Image files below a folder, sorted by their path, the same on every machine."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; data.path must be a folder of images.")
    found = _visible_files(folder, IMAGE_SUFFIXES)
    if not found:
        raise ValueError(
            f"there are no images below {folder}. Put some there, or correct data.path; image "
            f"files end in {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return found


def _visible_files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    relative = [file.relative_to(folder) for file in folder.rglob("*")]
    names = sorted(
        file.as_posix()
        for file in relative
        if file.suffix.lower() in suffixes and not any(part.startswith(".") for part in file.parts)
    )
    return [folder / name for name in names]


def _read_image(file: Path, image_size: int, channels: int) -> Pixels:
    from PIL import Image

    problem = reading(file, "an image of 8 bits per channel", "Replace or remove it.")
    with problem, Image.open(file) as image:
        return pixels(image, image_size, channels)


def _load_array(file: Path, key: str | None) -> NDArray[Any]:
    remedy = "Save numbers, not Python objects, with numpy.save or numpy.savez."
    if not _starts_with(file, NUMPY_SIGNATURES):
        raise ValueError(f"{file} is no .npy or .npz file. {remedy}")
    with reading(file, "a .npy or .npz file", remedy):
        loaded = np.load(file, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        if key is not None:
            raise ValueError(f"{file} is a single array; data.key is for .npz files. Remove it.")
        return loaded
    with loaded:
        name = _array_name(file, loaded.files, key)
        with reading(f"{file}: array {name}", "numbers", remedy):
            values: NDArray[Any] = loaded[name]
    return values


def _starts_with(file: Path, signatures: tuple[bytes, ...]) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(8).startswith(signatures)


def _array_name(file: Path, names: list[str], key: str | None) -> str:
    if key is None and len(names) == 1:
        return names[0]
    if key is not None and key in names:
        return key
    found = f"{len(names)} arrays" if key is None else f"no array {key}"
    raise ValueError(
        f"{file} holds {found}. Set data.key to one of its arrays: {', '.join(names) or 'none'}."
    )


def _parquet_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = _visible_files(path, frozenset([".parquet"]))
    if not found:
        raise ValueError(f"there are no .parquet files below {path}. Correct data.path.")
    return found


def _read_columns(
    files: list[Path], columns: list[str] | None, path: str
) -> tuple[Float64Array, list[str]]:
    """Values ``[N, d]`` and a name for each of the d numbers."""
    from pyarrow import parquet as pq

    remedy = "Write it with pandas.DataFrame.to_parquet, all files with the same columns."
    with reading(path, "Parquet", remedy):
        schema = pq.read_schema(files[0])
    names = _data_columns(schema) if columns is None else columns
    is_list = _check_columns(schema, names, path)
    with reading(path, "Parquet", remedy):
        # Without partitioning: folder names such as year=2024 are no columns.
        table = pq.read_table(files, columns=names, partitioning=None)
    if not table.num_rows:
        raise ValueError(f"{path} holds no rows.")
    if is_list:
        values = _list_values(table.column(names[0]), f"{path}: column {names[0]}")
        return values, [f"{names[0]}[{index}]" for index in range(values.shape[1])]
    return np.stack([_numbers(table.column(name)) for name in names], axis=1), names


def _data_columns(schema: pa.Schema) -> list[str]:
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    return [name for name in schema.names if name not in index]


def _check_columns(schema: pa.Schema, names: list[str], path: str) -> bool:
    """Whether the columns are a single one of lists. Raises ValueError for unusable ones."""
    missing = [name for name in names if name not in schema.names]
    if missing:
        raise ValueError(
            f"{path} has no column {_listed(missing)}; it has {_listed(schema.names)}. "
            "Correct data.columns."
        )
    types = {name: schema.field(name).type for name in names}
    if len(names) == 1 and _is_list(types[names[0]]):
        return True
    unusable = [name for name in names if not _is_numeric(types[name])]
    if unusable:
        raise ValueError(
            f"{path}: not numeric, or lists beside other columns: {_listed(unusable)}. Name in "
            "data.columns either numeric columns or a single column of lists of numbers."
        )
    return False


def _is_numeric(kind: pa.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind))


def _is_list(kind: pa.DataType) -> bool:
    from pyarrow import types

    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(test(kind) for test in lists) and _is_numeric(kind.value_type)


def _numbers(column: pa.ChunkedArray) -> Float64Array:
    """A column as float64; missing values are NaN."""
    numbers: Float64Array = column.cast("float64", safe=False).to_numpy()
    return numbers


def _list_values(column: pa.ChunkedArray, what: str) -> Float64Array:
    from pyarrow import compute

    lengths = compute.unique(compute.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or lengths[0] is None:
        found = ", ".join("missing" if n is None else str(n) for n in lengths[:5])
        raise ValueError(
            f"{what} holds lists of different lengths ({found}). Bring them to one length."
        )
    return _numbers(compute.list_flatten(column)).reshape(len(column), lengths[0])


def _standardized(values: Float64Array, names: list[str], path: str) -> Float64Array:
    constant = _chosen(names, values.min(axis=0) == values.max(axis=0))
    if constant:
        raise ValueError(
            f"{path}: constant, so that they cannot be standardized: {_listed(constant)}. Leave "
            "them out of data.columns, or set data.standardize to false."
        )
    standardized: Float64Array = (values - values.mean(axis=0)) / values.std(axis=0)
    return standardized


def _chosen(names: list[str], is_chosen: ArrayLike) -> list[str]:
    return [names[index] for index in np.flatnonzero(is_chosen)]


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence, at most eight of them."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
