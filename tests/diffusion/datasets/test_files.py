from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet as pq

from stabsearch.diffusion.datasets.files import array, image_folder, parquet


def save_image(file, colour, size=(12, 10), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(file)


def grey_level(image):
    """The pixel value of an image of one colour."""
    return round((float(image.mean()) + 1) * 127.5)


# image_folder


def test_images_of_all_formats_and_folders_are_sorted_by_path(tmp_path):
    names = ["b.png", "a/z.JPG", "a/y.webp", "c/d/e.bmp", "a.jpeg"]
    for level, name in enumerate(sorted(names)):
        save_image(tmp_path / name, (40 * level,) * 3)

    examples = image_folder(path=str(tmp_path), image_size=8)

    assert (examples.shape, examples.dtype) == ((5, 3, 8, 8), np.float32)
    assert [grey_level(image) for image in examples] == [0, 40, 80, 120, 160]


def test_other_and_hidden_files_are_left_out(tmp_path):
    save_image(tmp_path / "one.png", "red")
    save_image(tmp_path / ".thumbnails/one.png", "red")
    (tmp_path / "._one.png").write_bytes(b"what a Mac leaves in archives")
    (tmp_path / "labels.csv").write_text("one,1")

    assert len(image_folder(path=str(tmp_path), image_size=8)) == 1


def test_png_pixels_are_exact(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "one.png")

    examples = image_folder(path=str(tmp_path), image_size=8)

    assert np.array_equal(examples[0], image.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)


def test_grey_pictures_on_request(tmp_path):
    save_image(tmp_path / "one.png", (200, 200, 200))

    assert grey_level(image_folder(path=str(tmp_path), image_size=4, channels=1)) == 200


def test_fewer_images_come_from_every_folder(tmp_path):
    for level in range(6):
        save_image(tmp_path / f"class{level // 2}/{level}.png", (40 * level,) * 3)

    examples = image_folder(path=str(tmp_path), image_size=4, max_examples=3)

    assert [grey_level(image) for image in examples] == [0, 80, 160]


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_unreadable_image_is_named(tmp_path, content):
    save_image(tmp_path / "good.png", "red")
    (tmp_path / "bad.png").write_bytes(content)

    with pytest.raises(ValueError, match=r"bad\.png cannot be read as an image.*Replace or"):
        image_folder(path=str(tmp_path), image_size=8)


def test_truncated_image_is_named(tmp_path):
    save_image(tmp_path / "whole.jpg", "red", size=(200, 200))
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(ValueError, match=r"cut\.jpg cannot be read as an image.*truncated"):
        image_folder(path=str(tmp_path), image_size=8)


def test_sixteen_bit_image_is_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")

    with pytest.raises(ValueError, match=r"deep\.png.*more than 8 bits"):
        image_folder(path=str(tmp_path), image_size=8)


def test_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no images below .* end in \.bmp"):
        image_folder(path=str(tmp_path), image_size=8)


def test_file_in_place_of_a_folder_is_an_error(tmp_path):
    save_image(tmp_path / "one.png", "red")

    with pytest.raises(ValueError, match=r"one\.png is a file; data\.path must be a folder"):
        image_folder(path=str(tmp_path / "one.png"), image_size=8)


LOADERS = [
    lambda path: image_folder(path=path, image_size=8),
    lambda path: array(path=path),
    lambda path: parquet(path=path),
]


@pytest.mark.parametrize("load", LOADERS, ids=["image_folder", "array", "parquet"])
def test_missing_path_says_where_it_was_looked_for(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ValueError, match=rf"^faces does not exist \(looked for {tmp_path}/faces"):
        load("faces")


def test_paths_begin_at_the_current_directory_or_at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "x.npy", np.eye(3))

    assert np.array_equal(array(path="x.npy"), np.eye(3))
    assert np.array_equal(array(path="~/x.npy"), np.eye(3))


# array


@pytest.fixture
def saved(tmp_path):
    def save(values):
        np.save(tmp_path / "x.npy", values)
        return str(tmp_path / "x.npy")

    return save


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", "float64"])
@pytest.mark.parametrize("shape", [(5, 3), (5, 4, 6), (5, 2, 4, 6)])
def test_floats_are_taken_as_they_are(saved, dtype, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(dtype)

    examples = array(path=saved(values))

    assert examples.dtype == np.float32
    assert np.array_equal(examples, values.astype(np.float32))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 7), (5, 7)),
        ((5, 4, 6), (5, 1, 4, 6)),
        ((5, 1, 4, 6), (5, 1, 4, 6)),
        ((5, 3, 4, 6), (5, 3, 4, 6)),
    ],
)
def test_bytes_are_pixels_of_which_grey_ones_get_a_channel(saved, shape, expected):
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    examples = array(path=saved(values))

    assert np.array_equal(examples, values.astype(np.float32).reshape(expected) / 127.5 - 1)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_channels_come_first_when_told_that_they_are_last(saved, dtype):
    values = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3)).astype(dtype)

    examples = array(path=saved(values), channels_last=True)

    scaled = values / np.float32(127.5) - 1 if dtype == "uint8" else values
    assert np.array_equal(examples, scaled.transpose(0, 3, 1, 2))
    assert examples.flags.c_contiguous


@pytest.mark.parametrize(("shape", "channels_last"), [((5, 8, 6, 3), False), ((5, 3, 8, 6), True)])
def test_where_the_channels_of_pixels_are_is_not_guessed(saved, shape, channels_last):
    with pytest.raises(ValueError, match=r"not \[N, C, H, W\].*Use data\.channels_last"):
        array(path=saved(np.zeros(shape, np.uint8)), channels_last=channels_last)


def test_channels_last_without_channels_is_an_error(saved):
    with pytest.raises(ValueError, match=r"has shape \[5, 4, 6\]\. Remove it"):
        array(path=saved(np.zeros((5, 4, 6))), channels_last=True)


@pytest.mark.parametrize("dtype", ["int64", "uint16", "bool", "complex64", "U3"])
def test_numbers_of_unknown_scale_are_refused(saved, dtype):
    with pytest.raises(ValueError, match=r"x\.npy holds values of type .* Save pixels as uint8"):
        array(path=saved(np.zeros((5, 3)).astype(dtype)))


def test_only_array_of_an_npz_needs_no_key(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", images=np.eye(3))

    assert np.array_equal(array(path=str(tmp_path / "x.npz")), np.eye(3))


def test_key_chooses_an_array_of_an_npz(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.eye(3), labels=np.arange(3))

    assert np.array_equal(array(path=str(tmp_path / "x.npz"), key="images"), np.eye(3))


@pytest.mark.parametrize(
    ("key", "complaint"), [(None, "holds 2 arrays"), ("image", "holds no array image")]
)
def test_key_that_is_missing_or_wrong_is_told_the_keys(tmp_path, key, complaint):
    np.savez(tmp_path / "x.npz", images=np.eye(3), labels=np.arange(3))

    with pytest.raises(ValueError, match=rf"{complaint}\. Set data\.key .*: images, labels\."):
        array(path=str(tmp_path / "x.npz"), key=key)


def test_key_of_a_single_array_is_an_error(saved):
    with pytest.raises(ValueError, match=r"data\.key is for \.npz files"):
        array(path=saved(np.eye(3)), key="images")


def test_python_objects_are_never_unpickled(tmp_path, saved):
    objects = np.array([{}, []], dtype=object)
    np.savez(tmp_path / "x.npz", objects=objects)

    for path in (saved(objects), str(tmp_path / "x.npz")):
        with pytest.raises(ValueError, match=r"cannot be read.*Save numbers, not Python objects"):
            array(path=path)


@pytest.mark.parametrize("content", [b"", b"1,2,3"])
def test_what_is_no_array_is_named(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)

    with pytest.raises(ValueError, match=r"x\.npz is no \.npy or \.npz file"):
        array(path=str(tmp_path / "x.npz"))


@pytest.mark.parametrize("content", [b"PK and no archive", b"\x93NUMPY\x01\0 and no array"])
def test_damaged_array_is_named(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)

    with pytest.raises(ValueError, match=r"x\.npz cannot be read as a \.npy or \.npz file"):
        array(path=str(tmp_path / "x.npz"))


def test_folder_in_place_of_an_array_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"is no \.npy or \.npz file"):
        array(path=str(tmp_path))


# parquet


FRAME = pd.DataFrame(
    {"a": [1.0, 2.0, 6.0], "b": [10, 30, 20], "word": ["x", "y", "z"], "same": [0.1, 0.1, 0.1]}
)


@pytest.fixture
def written(tmp_path):
    def write(table):
        if isinstance(table, pd.DataFrame):
            table.to_parquet(tmp_path / "x.parquet")
        else:
            pq.write_table(pa.table(table), tmp_path / "x.parquet")
        return str(tmp_path / "x.parquet")

    return write


def test_columns_are_standardized_in_the_order_they_are_named(written):
    examples = parquet(path=written(FRAME), columns=["b", "a"])

    expected = FRAME[["b", "a"]].to_numpy()
    expected = (expected - expected.mean(axis=0)) / expected.std(axis=0)
    assert examples.dtype == np.float32
    assert examples == pytest.approx(expected, abs=1e-6)


def test_columns_are_as_they_are_without_standardizing(written):
    examples = parquet(path=written(FRAME), columns=["a", "same"], standardize=False)

    assert np.array_equal(examples, FRAME[["a", "same"]].to_numpy(np.float32))


@pytest.mark.parametrize("offset", [1_700_000_000, 2**55])
def test_large_numbers_that_vary_little_are_standardized_exactly(written, offset):
    seconds = offset + 2**10 * np.arange(5)

    examples = parquet(path=written({"time": pa.array(seconds)}))

    assert examples[:, 0] == pytest.approx((np.arange(5) - 2) / np.sqrt(2))


def test_all_columns_but_the_index_are_taken_by_default(written):
    indexed = FRAME[["a", "b"]].set_index(pd.Index([7, 3, 5]))

    assert parquet(path=written(indexed)).shape == (3, 2)


def test_column_of_lists_gives_a_row_each(written):
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)

    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 3)):
        path = written({"id": pa.array(range(4)), "row": pa.array(rows.tolist(), kind)})

        assert np.array_equal(parquet(path=path, columns=["row"], standardize=False), rows)


def test_lists_are_standardized_by_position(written):
    path = written({"row": [[1.0, 10.0], [3.0, 50.0]]})

    assert parquet(path=path).tolist() == [[-1, -1], [1, 1]]


def test_files_of_a_folder_are_read_in_the_order_of_their_names(tmp_path):
    for name, value in (("day=2/part.parquet", 2.0), ("day=1/part.parquet", 1.0)):
        (tmp_path / name).parent.mkdir()
        pd.DataFrame({"a": [value]}).to_parquet(tmp_path / name)
    (tmp_path / "_SUCCESS").touch()

    assert parquet(path=str(tmp_path), standardize=False).tolist() == [[1], [2]]


def test_folder_names_are_no_columns(tmp_path):
    (tmp_path / "a=7").mkdir()
    pd.DataFrame({"a": [1.0]}).to_parquet(tmp_path / "a=7/part.parquet")

    assert parquet(path=str(tmp_path), standardize=False).tolist() == [[1]]


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        (["a", "c", "d"], r"no column c, d; it has a, b, word, same\. Correct data\.columns"),
        (["a", "word"], r"not numeric.*: word\. Name in data\.columns"),
        (None, r"not numeric.*: word\. Name in data\.columns"),
        (["a", "same"], r"constant.*: same\. Leave them out .* set data\.standardize to false"),
    ],
    ids=["missing", "text", "text among all", "constant"],
)
def test_unusable_columns_are_named(written, columns, complaint):
    with pytest.raises(ValueError, match=complaint):
        parquet(path=written(FRAME), columns=columns)


@pytest.mark.parametrize("bad", [None, np.nan, np.inf])
def test_incomplete_columns_are_named(written, bad):
    path = written({"a": [1.0, 2.0], "b": pa.array([1.0, bad], from_pandas=False)})

    with pytest.raises(ValueError, match=r"missing, NaN or infinite values in b\. Drop"):
        parquet(path=path)


def test_missing_whole_number_is_named(written):
    with pytest.raises(ValueError, match=r"missing, NaN or infinite values in b\. Drop"):
        parquet(path=written({"a": [1, 2], "b": [1, None]}))


@pytest.mark.parametrize(
    ("lists", "found"), [([[1.0], [1.0, 2.0]], "1, 2"), ([[1.0], None], "1, missing")]
)
def test_lists_of_different_lengths_are_an_error(written, lists, found):
    with pytest.raises(
        ValueError, match=re.escape(f"row holds lists of different lengths ({found})")
    ):
        parquet(path=written({"row": lists}))


def test_missing_list_of_fixed_length_is_an_error(written):
    path = written({"row": pa.array([[1.0, 2.0], None], pa.list_(pa.float64(), 2))})

    with pytest.raises(ValueError, match=r"different lengths \(2, missing\)"):
        parquet(path=path)


@pytest.mark.parametrize(
    "table",
    [
        {"row": [[1.0], [2.0]], "a": [1.0, 2.0]},
        {"row": [["x"], ["y"]]},
        {"row": [[[1.0]], [[2.0]]]},
    ],
    ids=["beside another", "of text", "of lists"],
)
def test_lists_that_are_no_rows_of_numbers_are_an_error(written, table):
    with pytest.raises(ValueError, match="lists beside other columns: row"):
        parquet(path=written(table))


def test_constant_positions_of_lists_are_named(written):
    path = written({"row": [[float(n)] + [0.0] * 9 for n in range(3)]})

    with pytest.raises(ValueError, match=r"row\[1\], row\[2\], .*row\[8\] and 1 more\. Leave"):
        parquet(path=path)


def test_table_without_rows_is_an_error(written):
    with pytest.raises(ValueError, match="holds no rows"):
        parquet(path=written(FRAME[["a"]].head(0)))


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ({"a": [1.0]}, "missing, NaN or infinite values in b"),
        ({"a": [1.0], "b": ["x"]}, "cannot be read as Parquet: .* all files with the same"),
    ],
    ids=["a column less", "another type"],
)
def test_files_that_do_not_fit_together_are_an_error(tmp_path, other, complaint):
    pd.DataFrame({"a": [1.0], "b": [1.0]}).to_parquet(tmp_path / "1.parquet")
    pd.DataFrame(other).to_parquet(tmp_path / "2.parquet")

    with pytest.raises(ValueError, match=complaint):
        parquet(path=str(tmp_path), standardize=False)


def test_what_is_no_parquet_is_named(tmp_path):
    (tmp_path / "x.parquet").write_text("a,b\n1,2\n")

    with pytest.raises(ValueError, match=r"x\.parquet cannot be read as Parquet.*to_parquet"):
        parquet(path=str(tmp_path / "x.parquet"))


def test_folder_without_parquet_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no \.parquet files below"):
        parquet(path=str(tmp_path))
