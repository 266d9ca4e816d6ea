import math
import subprocess
import sys

import pytest

from stabsearch.recommend.words import (
    SYMPTOM_WORDS,
    count,
    number,
    octaves_words,
    params_text,
    percent,
    setting_text,
    symptom_words,
    times_words,
)
from stabsearch.records import Symptom


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (64, "64"),
        ("adamw", "adamw"),
        (1.0, "1"),
        (0.25, "0.25"),
        (0.07301, "0.073"),
        (0.1734, "0.173"),
        (12.54, "12.5"),
        (52.04, "52"),
        (999.6, "1000"),
        (1234.5, "1234"),
        (9999.0, "1e4"),
        (123456.0, "1.2e5"),
        (0.01, "0.01"),
        (0.00996, "0.01"),
        (3.529e-3, "3.5e-3"),
        (1e-3, "1e-3"),
        (-0.5, "-0.5"),
        (0.0, "0"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_numbers_are_short(value, expected):
    assert number(value) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, "<0.1%"),
        (0.0004, "<0.1%"),
        (0.0212, "2.1%"),
        (0.0946, "9.5%"),
        (0.0951, "10%"),
        (0.5, "50%"),
        (0.9995, ">99.9%"),
    ],
)
def test_shares_are_percent(share, expected):
    assert percent(share) == expected


def test_params_are_spelled_as_in_a_study_file():
    params = {"max_grad_norm": None, "batch_size": 64, "beta": "linear", "flag": True, "x": 0.5}

    assert params_text(params) == "max_grad_norm=null batch_size=64 beta=linear flag=true x=0.5"


def test_one_is_singular():
    assert [count(n, "seed") for n in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]


def test_every_symptom_has_words():
    assert set(SYMPTOM_WORDS) == set(Symptom)
    assert symptom_words("not_learning", is_unstable=False) == "did not learn"
    assert symptom_words("not_learning") == "never learned, its rate too high"
    for symptom in ("", "terminal_signal", "gradient_outliers"):
        assert symptom_words(symptom) == "had learned nothing where lower rates had"
    assert symptom_words("", is_unstable=False) == "ended badly"


def test_the_words_are_light_to_import():
    code = (
        "import sys, stabsearch.cli.progress\n"
        "print(sorted({'numpy', 'pandas', 'sklearn', 'torch', 'ray'} & set(sys.modules)))"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize(
    ("octaves", "within", "times"),
    [
        (1.0, "one octave", "twice the rate"),
        (0.5, "0.5 octaves", "1.41 times the rate"),
        (2.0, "2 octaves", "4 times the rate"),
    ],
)
def test_octaves_in_words(octaves, within, times):
    assert (octaves_words(octaves), times_words(octaves)) == (within, times)


def test_a_setting_begins_with_its_learning_rate():
    text = setting_text({"max_grad_norm": None, "learning_rate": 2.1e-3})

    assert text == "learning_rate 2.1e-3  max_grad_norm null"
