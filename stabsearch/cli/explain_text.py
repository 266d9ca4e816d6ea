"""One trial explained: its end, its loss, every verdict, and what would have changed it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from rich.text import Text

from stabsearch.cli import plot
from stabsearch.recommend.words import number, params_text
from stabsearch.records import (
    Ending,
    Outcome,
    Report,
    Severity,
    TrialFacts,
    TrialRecord,
    Verdict,
    deciding_verdict,
)
from stabsearch.results.stored_trial import StoredTrial
from stabsearch.stability.counterfactual import Counterfactual, Hindsight, in_words
from stabsearch.stability.replay import Fate, fate_of
from stabsearch.stability.words import describe_gauge, describe_timesteps
from stabsearch.thresholds import THRESHOLDS, Preset

LABEL_WIDTH = 12
MAX_WIDTH = 100
PLOT_HEIGHT = 10
BIN_WIDTHS = (6, 8)
"""Columns of a timestep bin in the strip, least and most; with more bins, one column each."""
ROW_LABEL_WIDTH = 15

SEVERITY_STYLES = {
    Severity.STEER: "cyan",
    Severity.WARN: "yellow",
    Severity.PENALISE: "magenta",
    Severity.PRUNE: "bold red",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that is known of one trial's verdicts."""

    trial: StoredTrial
    verdicts: tuple[tuple[Verdict, Counterfactual], ...]
    """By step."""
    presets: Mapping[Preset, Fate]
    """What would have become of the trial under the other presets."""
    survival: str = ""
    """Of a pruned trial: what would have let it go on, as a sentence."""
    comparison: str = ""
    """Of a trial that the answer counts as unstable for what others did: why, as a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the text is written for."""

    width: int
    wraps: bool
    """Whether lines are broken at ``width``: on a terminal, and not in a file."""
    ascii_only: bool


def explain_trial(
    trial: StoredTrial, settings: Mapping[str, Any], *, gate: bool, comparison: str = ""
) -> Explanation:
    """Judge a stored trial in hindsight. ``settings``: the study's ``analyzer`` section."""
    if trial.facts is None:
        return Explanation(trial=trial, verdicts=(), presets={}, comparison=comparison)
    hindsight = Hindsight(trial.facts, trial.reports, settings, gate=gate)
    ordered = sorted(trial.verdicts, key=lambda v: (v.step, -v.severity, v.rule))
    steps = trial.reports[-1].step if trial.reports else 0
    return Explanation(
        trial=trial,
        verdicts=tuple((verdict, hindsight.of(verdict)) for verdict in ordered),
        presets={
            preset: fate_of(trial.record, steps, judged, gate=gate)
            for preset, judged in hindsight.presets.items()
        },
        survival=_survival(hindsight) if trial.record.ending is Ending.PRUNED else "",
        comparison=comparison,
    )


def _survival(hindsight: Hindsight) -> str:
    changes, obstacle = hindsight.survival()
    return f"{in_words(changes)} would have let it go on." if changes else obstacle


def lines_of(explanation: Explanation, page: Page) -> Iterator[Text]:
    """The explanation, line by line."""
    trial = explanation.trial
    for label, text in _header(trial, explanation.comparison):
        yield from _labelled(label, text, page)
    if trial.facts is not None and trial.reports:
        deciding = deciding_verdict(v for v in trial.verdicts if v.severity >= Severity.PENALISE)
        yield from _loss(trial, [v for v, _ in explanation.verdicts], page)
        yield from _timesteps(trial.facts, _report_at(trial.reports, deciding), page)
    else:
        yield from _labelled("LOSS", "nothing to draw: the trial has not reported", page)
    yield Text()
    if not explanation.verdicts:
        yield from _labelled("VERDICTS", "none: no rule found anything", page)
    for i, (verdict, counterfactual) in enumerate(explanation.verdicts):
        if i == 0:
            yield Text("VERDICTS", style="bold")
        yield from _verdict(i + 1, verdict, counterfactual, trial.facts, page)
    yield Text()
    if explanation.survival:
        yield from _labelled("OTHERWISE", explanation.survival, page)
    for i, (preset, fate) in enumerate(explanation.presets.items()):
        label = "" if i else "PRESETS"
        yield from _labelled(label, f"{preset}: {fate_words(fate)}", page)


# --- header -----------------------------------------------------------------------------------


def _header(trial: StoredTrial, comparison: str) -> Iterator[tuple[str, str]]:
    record = trial.record
    yield "TRIAL", f"{record.trial_id}: setting {record.setting}, seed {record.seed}"
    yield "PARAMS", params_text(record.params)
    yield "OUTCOME", outcome_words(record)
    if comparison:
        yield "COMPARED", comparison
    if record.score is not None:
        dead = record.constant_score
        beside = f"; a network that outputs a constant gets {number(dead)}" if dead else ""
        yield "SCORE", f"{number(record.score)}, lower is better{beside}"
    if record.lr_gauge_octaves is not None:
        kappa = f", by kappa {number(record.kappa)}" if record.kappa is not None else ""
        yield "GAUGE", describe_gauge(record.lr_gauge_octaves) + kappa
    if record.remarks:
        yield "REMARKS", record.remarks
    if record.attempts > 1:
        yield "ATTEMPTS", f"{record.attempts}: the study was interrupted, or a worker was lost"


STOPPED_WORDS = {
    Ending.BEHIND: "stopped behind other trials",
    Ending.FAR: "stopped far from the best learning rate",
    Ending.WITHIN: "within the edge when it was to end",
}


def outcome_words(record: TrialRecord) -> str:
    """How the trial ended, and after how much of its budget."""
    steps = f"step {record.steps} of {record.max_train_steps}"
    ending = record.ending
    if ending is Ending.PRUNED:
        kind = "diverged" if record.outcome is Outcome.DIVERGED else "not a divergence"
        return f"PRUNED at {steps} by the gate: {record.rule} {record.symptom} ({kind})"
    if ending in (Ending.UNSTABLE, Ending.POOR):
        return f"{ending.value.upper()}, trained to {steps}: {record.rule} {record.symptom}"
    if ending in (Ending.BEHIND, Ending.FAR, Ending.WITHIN):
        return f"STOPPED at {steps}: {record.reason}"
    if ending is Ending.FAILED:
        return f"FAILED at {steps}: {record.reason}"
    if ending is Ending.STABLE:
        return f"STABLE: trained all {record.max_train_steps} steps"
    return f"RUNNING, at {steps}"


def fate_words(fate: Fate) -> str:
    """What became of a trial, or would have, as the end of a sentence."""
    verdict = fate.verdict
    who = f"{verdict.rule} {verdict.symptom}" if verdict else ""
    if fate.ending is Ending.PRUNED:
        return f"pruned at step {fate.steps} by {who}"
    if fate.ending in (Ending.UNSTABLE, Ending.POOR):
        return f"{fate.ending.value} ({who})"
    if fate.ending in STOPPED_WORDS:
        return STOPPED_WORDS[fate.ending]
    if fate.ending is Ending.GOES_ON:
        is_bad = verdict is not None and verdict.severity >= Severity.PENALISE
        rest = f", and is not called stable all the same ({who})" if is_bad else ""
        return f"would have gone on after step {fate.steps}; what then is not known{rest}"
    return fate.ending.value


# --- drawings ---------------------------------------------------------------------------------


def _loss(trial: StoredTrial, verdicts: Sequence[Verdict], page: Page) -> Iterator[Text]:
    assert trial.facts is not None
    reference = trial.facts.reference
    yield from _labelled(
        "LOSS",
        "of training, unweighted, by step; a verdict's number marks its step. C0: the best "
        "constant prediction. L_iso: the best single gain per timestep.",
        page,
    )
    rows = plot.curve(
        [(report.step, report.loss) for report in trial.reports],
        {"C0": reference.constant, "L_iso": reference.isotropic},
        [(verdict.step, str(i + 1)) for i, verdict in enumerate(verdicts)],
        width=page.width - 2,
        height=PLOT_HEIGHT,
        ascii_only=page.ascii_only,
    )
    for row in rows:
        yield Text(f"  {row}")


def _timesteps(facts: TrialFacts, report: Report, page: Page) -> Iterator[Text]:
    """Every bin's loss between that of a constant and L_iso: as bars, and in numbers."""
    evaluation = report.evaluation
    losses = evaluation.bin_loss_raw if evaluation else report.bin_loss
    reference = facts.reference
    ratios = [
        loss / low if low > 0 else math.nan
        for loss, low in zip(losses, reference.bin_isotropic, strict=True)
    ]
    progress = [
        (constant - loss) / (constant - low) if constant - low > 0.01 * constant else math.nan
        for loss, constant, low in zip(
            losses, reference.bin_constant, reference.bin_isotropic, strict=True
        )
    ]
    which = "held-out" if evaluation else "training"
    yield from _labelled(
        "TIMESTEPS",
        f"at step {report.step}, the cleanest first. progress: of the {which} loss, from C0 (0%) "
        "to L_iso (100%)",
        page,
    )
    heights = plot.bars(progress, ascii_only=page.ascii_only)
    least, most = BIN_WIDTHS
    width = min(most, (page.width - ROW_LABEL_WIDTH) // len(losses))
    if width < least:
        yield from _narrow_timesteps(facts, progress, heights)
        return
    styles = [_progress_style(share) for share in progress]
    yield _row("timesteps", [f"{low}-" for low in facts.bin_edges[:-1]], width)
    yield _row("", [cell * (width - 1) for cell in heights], width, styles)
    yield _row("progress", [_percent(share) for share in progress], width)
    yield _row("loss / L_iso", [_short(ratio) for ratio in ratios], width)


def _narrow_timesteps(
    facts: TrialFacts, progress: Sequence[float], heights: Sequence[str]
) -> Iterator[Text]:
    """Many bins: a column each, and the one that is behind in words."""
    line = Text("  ")
    for share, cell in zip(progress, heights, strict=True):
        line.append(cell, _progress_style(share))
    yield line
    known = [(share, i) for i, share in enumerate(progress) if not math.isnan(share)]
    if known:
        share, worst = min(known)
        yield Text(f"  least: {_percent(share)} at {describe_timesteps(facts, worst)}")


def _row(label: str, cells: Sequence[str], width: int, styles: Iterable[str] = ()) -> Text:
    row = Text(f"  {label:<{ROW_LABEL_WIDTH - 2}}")
    for cell, style in zip_longest(cells, styles, fillvalue=""):
        row.append(f"{cell:<{width}}", style)
    row.rstrip()
    return row


def _short(ratio: float) -> str:
    """In five characters."""
    text = number(ratio)
    return text if len(text) <= 5 else f"{ratio:.0e}".replace("e+", "e")


def _percent(share: float) -> str:
    """``92%``; a bin that is far off the scale says only that."""
    if math.isnan(share):
        return "?"
    return "<-99%" if share < -0.99 else f"{share:.0%}"


def _progress_style(share: float) -> str:
    return "green" if share > 0.75 else "yellow" if share > 0.25 else "red"


def _report_at(reports: Sequence[Report], verdict: Verdict | None) -> Report:
    """The report that the deciding verdict speaks of; without one, the last."""
    if verdict is None:
        return reports[-1]
    return next((report for report in reports if report.step >= verdict.step), reports[-1])


# --- verdicts ---------------------------------------------------------------------------------


def _verdict(
    index: int,
    verdict: Verdict,
    counterfactual: Counterfactual,
    facts: TrialFacts | None,
    page: Page,
) -> Iterator[Text]:
    title = Text(f"{index:>2}  ")
    title.append(verdict.severity.name.lower(), SEVERITY_STYLES.get(verdict.severity, ""))
    title.append(f"  {verdict.rule} {verdict.symptom} at step {verdict.step}")
    yield title
    yield from _indented("", verdict.reason, page)
    if facts is not None and verdict.timestep_bin is not None:
        yield from _indented("where", describe_timesteps(facts, verdict.timestep_bin), page)
    yield from _indented("number", number_words(verdict), page)
    yield from _indented("advice", verdict.advice, page)
    yield from _indented("otherwise", str(counterfactual), page)


def number_words(verdict: Verdict) -> str:
    """``0.83 > 0.5 (R1b.prune: share of its progress that a trial has lost, ...)``"""
    side = ">" if verdict.value > verdict.threshold else "<"
    value, threshold = number(verdict.value), number(verdict.threshold)
    if value == threshold:  # a narrow matter
        value, threshold = f"{verdict.value:.6g}", f"{verdict.threshold:.6g}"
    numbers = f"{value} {side} {threshold}"
    if not verdict.limit:
        return numbers
    meaning = THRESHOLDS[verdict.limit].meaning if verdict.limit in THRESHOLDS else ""
    return f"{numbers} ({verdict.limit}{': ' if meaning else ''}{meaning})"


# --- lines ------------------------------------------------------------------------------------


def _labelled(label: str, text: str, page: Page) -> Iterator[Text]:
    lines = wrap(text, page, LABEL_WIDTH)
    for i, line in enumerate(lines):
        shown = Text(f"{'' if i else label:<{LABEL_WIDTH}}", style="bold")
        shown.append(line, style="not bold")
        yield shown


def _indented(label: str, text: str, page: Page) -> Iterator[Text]:
    for i, line in enumerate(wrap(text, page, 4 + 11 * bool(label))):
        name = "" if i else label
        yield Text(f"    {name:<11}{line}" if label else f"    {line}")


def wrap(text: str, page: Page, indent: int) -> list[str]:
    """Lines that fit beside an indent; a file's lines are as long as they are."""
    lines = []
    for line in text.splitlines() or [""]:
        width = max(20, page.width - indent) if page.wraps else 10**6
        lines += textwrap.wrap(line, width, break_on_hyphens=False, break_long_words=False) or [""]
    return lines
