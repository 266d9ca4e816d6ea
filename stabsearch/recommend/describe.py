"""A Recommendation in plain text, and as JSON."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from stabsearch.recommend.answer_lines import answer_lines, risk_lines, tuner_lines
from stabsearch.recommend.trial_lines import cost_lines, failure_lines
from stabsearch.records import Recommendation

LABEL_WIDTH = 16


def describe(
    recommendation: Recommendation, trials: pd.DataFrame | None = None, width: int | None = None
) -> str:
    """The final answer of a study, a labelled line per fact.

    ``trials`` (``Results.trials``) adds why the other settings failed, and what the search cost.
    Lines longer than ``width`` are wrapped.
    """
    lines = [*answer_lines(recommendation), *risk_lines(recommendation)]
    if trials is not None:
        lines += failure_lines(recommendation, trials)
    lines += tuner_lines(recommendation)
    lines += cost_lines(recommendation, trials)
    lines += [("NOTES", note) for note in recommendation.notes]
    return "\n".join(_wrapped(_labelled(lines), width))


def to_json(recommendation: Recommendation) -> dict[str, Any]:
    """The record as a dict of plain values, for ``json.dumps``; absent numbers are None."""
    return {name: _finite(value) for name, value in asdict(recommendation).items()}


def _labelled(lines: list[tuple[str, str]]) -> Iterator[str]:
    """A label is written once, on the first of its lines."""
    last = None
    for label, text in lines:
        shown = "" if label == last else label
        last = label or last
        yield f"{shown:<{LABEL_WIDTH}} {text}".rstrip()


def _wrapped(lines: Iterator[str], width: int | None) -> Iterator[str]:
    """Long lines go on below their text, not below their label."""
    for line in lines:
        if width is None or len(line) <= width:
            yield line
            continue
        yield from textwrap.wrap(
            line,
            max(width, 2 * LABEL_WIDTH),
            subsequent_indent=" " * (LABEL_WIDTH + 1),
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
            replace_whitespace=False,
        )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
