"""The lines of an answer that the table of trials says: (label, text)."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from stabsearch.recommend.space import LEARNING_RATE
from stabsearch.recommend.words import count, number, symptom_words
from stabsearch.records import Outcome, Purpose, Recommendation, StoppedBy

Line = tuple[str, str]

STOPPED_WORDS = {
    StoppedBy.RANK: "stopped because others were ahead",
    StoppedBy.GAUGE: "stopped because the gauge read a learning rate far from the best",
}


def failure_lines(answer: Recommendation, trials: pd.DataFrame) -> Iterator[Line]:
    """Why the others failed."""
    for text in _failures(answer, trials):
        yield "WHY OTHERS FAIL", text


def cost_lines(answer: Recommendation, trials: pd.DataFrame | None) -> Iterator[Line]:
    """What the search cost, against training every setting to its end."""
    if not answer.steps_budgeted:
        return
    saved = 1 - answer.steps_spent / answer.steps_budgeted
    if trials is None:
        yield "PRUNING", f"saved {saved:.0%} of the step budget"
    elif (trials["purpose"] == Purpose.PROBE).any():
        yield "PROBES", _probes(trials)
    else:
        stopped = int((trials["stopped_by"] != "").sum())
        trials_words = f"stopped {stopped} of {len(trials)} trials early"
        yield "PRUNING", f"{trials_words}: {saved:.0%} of the step budget saved"


def _probes(trials: pd.DataFrame) -> str:
    """Costs in trainings of the whole budget."""
    ended = trials[~trials["outcome"].isin((Outcome.RUNNING, Outcome.FAILED))]
    cost = ended["steps"] / ended["max_train_steps"]
    is_probe = ended["purpose"] == Purpose.PROBE
    is_search = is_probe | (ended["purpose"] == Purpose.SEARCH)
    num_full = int((is_search & ~is_probe).sum())
    text = (
        f"{int(is_probe.sum())} short and {count(num_full, 'full trial')}: "
        f"{cost[is_search].sum():.1f} full trainings' worth of steps; to train every setting "
        f"takes {int(is_search.sum())}"
    )
    confirming = int((~is_search).sum())
    if confirming:
        trainings = f"{cost[~is_search].sum():.1f} full trainings"
        text += f"; the confirmation {trainings} more, in {count(confirming, 'trial')}"
    return text


def _failures(answer: Recommendation, trials: pd.DataFrame) -> Iterator[str]:
    """One line per symptom, the most frequent first, and one for each other way to end."""
    is_unstable = trials["trial_id"].isin(answer.unstable_trial_ids)
    is_failed = trials["outcome"] == "failed"
    is_penalised = trials["severity"].isin(("penalise", "prune"))
    bad = trials[is_unstable | (~is_failed & is_penalised)]
    why = [
        symptom_words(symptom, is_unstable=unstable)
        for symptom, unstable in zip(bad["symptom"], is_unstable[bad.index], strict=True)
    ]
    groups = [(words, group) for words, group in bad.assign(why=why).groupby("why")]
    for words, group in sorted(groups, key=lambda item: (-len(item[1]), item[0])):
        found = f"{count(len(group), 'trial')}{_rates(group)}{_steps(group)}{_timesteps(group)}"
        yield f"{words}: {found}"
    for stopped_by, words in STOPPED_WORDS.items():
        number_of = int((trials["stopped_by"] == stopped_by).sum())
        if number_of:
            yield f"{words}: {count(number_of, 'trial')}"
    if is_failed.any():
        yield f"failed, which is not the setting's fault: {count(int(is_failed.sum()), 'trial')}"


def _rates(group: pd.DataFrame) -> str:
    column = f"params_{LEARNING_RATE}"
    if column not in group:
        return ""
    rates = group[column].astype(float)
    if rates.isna().any():  # a rate that is not searched is a parameter of stress tests alone
        return ""
    low, high = number(float(rates.min())), number(float(rates.max()))
    return f", {LEARNING_RATE} {low}" + (f" .. {high}" if high != low else "")


def _steps(group: pd.DataFrame) -> str:
    """When the symptom showed; the range over the group."""
    known = group["verdict_step"].dropna()
    if known.empty:
        return ""
    low, high = int(known.min()), int(known.max())
    return f", at step {low}" if low == high else f", at steps {low} to {high}"


def _timesteps(group: pd.DataFrame) -> str:
    """The timesteps at which most of the group's failures showed."""
    known = group.dropna(subset=["timestep_low", "timestep_high"])
    if known.empty:
        return ""
    ranges = known["timestep_low"].astype(str) + "-" + known["timestep_high"].astype(str)
    counts = ranges.value_counts()
    most = f"mostly at timesteps {counts.index[0]}" if len(counts) > 1 else ""
    return f", {most or f'at timesteps {counts.index[0]}'}"
