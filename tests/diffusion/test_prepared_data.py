"""What a user's own data function raises, and returns in vain, is one sentence that names it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from stabsearch.diffusion.prepared_data import prepare_data
from stabsearch.errors import SpecError
from stabsearch.spec import DataSpec


class Picture:
    """No number."""


def prepared(name: str, **options):
    return prepare_data(DataSpec.model_validate({"name": f"{__name__}:{name}"} | options))


def server_down():
    raise OSError("server down")


def bad_value():
    raise ValueError("no such split")


def nothing_there():
    return {}["images"]


def ends_the_program():
    sys.exit("no data here")


def ragged():
    return np.zeros((4, 2)), [1, 2]


def a_picture():
    return Picture()


def whole_numbers(*, num_examples=100):
    return np.random.default_rng(0).integers(-2, 3, (num_examples, 4))


def forgot_to_return():
    np.zeros((4, 2))


def one_example():
    return np.ones((1, 4))


@pytest.mark.parametrize(
    ("function", "raised"),
    [
        ("server_down", "OSError: server down"),
        ("bad_value", "ValueError: no such split"),
        ("nothing_there", "KeyError: 'images'"),
        ("ends_the_program", "SystemExit: no data here"),
    ],
)
def test_whatever_a_function_raises_is_told_with_its_type_and_the_function_s_name(
    function, raised
):
    with pytest.raises(SpecError) as told:
        prepared(function)

    assert str(told.value).startswith(f"loading the data raised {raised}. Mend the function")
    assert f"{__name__}:{function}" in str(told.value)


def test_a_field_that_the_function_does_not_take_is_told_likewise():
    with pytest.raises(SpecError, match=r"unexpected keyword argument 'num'.*fields of data"):
        prepared("whole_numbers", num=3)


@pytest.mark.parametrize(
    ("function", "found"),
    [
        ("ragged", r"a value of type tuple .*\(ValueError: setting an array element"),
        ("a_picture", r"a value of type Picture .*\(TypeError: "),
    ],
)
def test_what_numpy_cannot_take_for_numbers_names_the_function(function, found):
    with pytest.raises(SpecError, match=f"{function} returned {found}"):
        prepared(function)


def test_a_function_that_returns_nothing_is_told_so():
    with pytest.raises(SpecError, match=r":forgot_to_return returned None\. Let the function"):
        prepared("forgot_to_return")


def test_our_own_checks_of_what_it_returned_keep_their_words():
    with pytest.raises(ValueError, match=r"^the data must be an array") as told:
        prepared("one_example")

    assert "Mend the function" not in str(told.value)


def test_numbers_of_another_type_are_data():
    assert prepared("whole_numbers").dataset.train.dtype == np.float32
