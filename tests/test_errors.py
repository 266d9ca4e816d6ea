"""What is shown of an exception that is not ours."""

from __future__ import annotations

import traceback

import pytest

from stabsearch.errors import MAX_MESSAGE, exception_line, exception_text


def traceback_of(error: Exception, cause: Exception | None = None) -> str:
    def fails() -> None:
        raise error from cause

    try:
        fails()
    except Exception:
        return traceback.format_exc().strip()
    raise AssertionError


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (traceback_of(ValueError("bad width")), "ValueError: bad width"),
        (traceback_of(ValueError("bad"), KeyError("x")), "ValueError: bad"),
        (
            traceback_of(RuntimeError("no weights:\n\tMissing w.\nsee x")),
            "RuntimeError: no weights:",
        ),
        (traceback_of(AssertionError()), "AssertionError"),
        ("its worker was lost; it had been started 3 times",) * 2,
        ("CUDA error: misaligned\nFor debugging consider", "CUDA error: misaligned"),
        ("", ""),
    ],
    ids=["one line", "chained", "more lines", "no message", "no traceback", "text", "nothing"],
)
def test_of_a_traceback_the_line_that_says_what_was_raised(text, line):
    assert exception_line(text) == line


def test_an_exception_is_one_line_that_is_not_too_long():
    assert exception_text(KeyError("images")) == "KeyError: 'images'"
    assert exception_text(ValueError("a\n  b")) == "ValueError: a b"
    assert exception_text(AssertionError()) == "AssertionError"
    assert len(exception_text(ValueError("many words " * 100))) <= MAX_MESSAGE + 20
