"""What is said to silence a verdict does silence it, and a little less does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stabsearch.records import Severity
from stabsearch.stability.counterfactual import Hindsight, in_words, lenient_sign
from stabsearch.stability.replay import judge_again, verdicts_of
from stabsearch.thresholds import THRESHOLDS, Preset
from tests.stability.reports import curve, facts, nan_report
from tests.stability.streams import random_facts, random_reports

DYING = [1.0, 0.7, 0.4, 0.2, 0.1, 0.1, *[0.58] * 6]
"""R1b penalises at step 175 and prunes at step 200, 53% of the progress lost."""
RULES = {"name": "rules", "preset": "default", "thresholds": {}}


def judged(trial, reports, settings=RULES, gate=True, **thresholds):
    changed = {**settings, "thresholds": {**settings["thresholds"], **thresholds}}
    return verdicts_of(judge_again(trial, reports, changed, gate=gate))


def hindsight(trial, reports, settings=RULES, gate=True):
    """The trial as it was stored, and its verdicts."""
    stored = judge_again(trial, reports, settings, gate=gate)
    reports = [j.report for j in stored]
    return Hindsight(trial, reports, settings, gate=gate), reports, verdicts_of(stored)


def says(verdicts, verdict):
    """Whether the same rule says as much, or prunes."""
    return any(
        v.rule == verdict.rule
        and v.severity >= verdict.severity
        and (v.symptom is verdict.symptom or v.severity is Severity.PRUNE)
        for v in verdicts
    )


def test_a_verdict_is_silenced_by_its_own_threshold():
    look, reports, verdicts = hindsight(facts(), curve(DYING))
    penalty, prune = verdicts
    found = look.of(prune)
    (change,) = found.changes

    assert (change.name, change.now) == ("R1b.prune", 0.5)
    assert change.value == pytest.approx(prune.value, rel=0.01)
    assert not says(judged(facts(), reports, **{change.name: change.value}), prune)
    assert says(judged(facts(), reports, **{change.name: 0.98 * prune.value}), prune)
    assert found.remaining is Severity.PENALISE
    assert str(found).startswith(
        f"R1b.prune of {change.value:g} or more (is 0.5) would have let it go on, with a penalty."
    )
    assert "would have kept it silent" in str(look.of(penalty))


def test_presets_that_do_not_say_it_are_named():
    look, _, verdicts = hindsight(facts(), curve(DYING))
    prune = verdicts[-1]

    assert prune.severity is Severity.PRUNE
    assert look.of(prune).presets == (Preset.LENIENT,)
    assert str(look.of(prune)).endswith("Preset lenient does not say it.")


def test_a_value_that_is_not_finite_is_judged_by_no_threshold():
    look, _, verdicts = hindsight(facts(), [*curve([1.0, 0.8]), nan_report(75, 60)])
    found = look.of(verdicts[0])

    assert found.changes == ()
    assert str(found) == "No threshold: a value that is not finite is judged by none."
    assert look.survival() == ((), str(found))


def test_another_rule_that_prunes_all_the_same_is_named():
    losses = [1.0, 0.7, 0.4, 0.3, *[0.25] * 4, *[0.95] * 4]
    thresholds = {"R1b.prune": 0.9, "R1c.falling_t": -1e9}  # both at one report
    look, reports, verdicts = hindsight(
        facts(), curve(losses), {**RULES, "thresholds": thresholds}
    )
    prunes = [v for v in verdicts if v.severity is Severity.PRUNE]

    assert [v.rule for v in prunes] == ["R1b", "R1c"]
    assert "R1c prunes the trial at step" in str(look.of(prunes[0]))
    changes, obstacle = look.survival()
    assert {change.name for change in changes} >= {"R1b.prune"}
    assert obstacle == ""
    rest = judged(facts(), reports, **thresholds | {c.name: c.value for c in changes})
    assert not [v for v in rest if v.severity is Severity.PRUNE]
    assert " and " in in_words(changes)


def test_a_rule_with_two_numbers_needs_both_changed():
    """Above R7.share the gradient comes from one bin; then N_eff is about 1 too."""
    one_bin = (10.0, 1.0, 1.0, 1.0)
    reports = [
        replace(report, bin_grad_norm=one_bin)
        for report in curve([1 / (1 + i) for i in range(40)])
    ]
    settings = {**RULES, "thresholds": {"R7.share": 0.7, "R7.effective_bins": 2.0}}
    look, _, verdicts = hindsight(facts(), reports, settings)
    found = look.of(next(v for v in verdicts if v.rule == "R7"))

    assert [change.name for change in found.changes] == ["R7.share", "R7.effective_bins"]
    assert " or more (is 0.7) and R7.effective_bins of " in str(found)
    assert " or less (is 2) would have kept it silent." in str(found)


def test_what_this_version_does_not_say_is_said_to_be_so():
    _, _, verdicts = hindsight(facts(), curve(DYING))
    quiet = Hindsight(facts(), curve([1.0, 0.8]), RULES, gate=True)

    assert "it is not said" in str(quiet.of(verdicts[0]))
    assert quiet.of(verdicts[0]).changes == ()


def test_another_judge_has_no_thresholds():
    settings = {"name": "chapter", "preset": "default", "thresholds": {}}
    look, _, verdicts = hindsight(facts(), curve(DYING), settings)
    _, _, by_rules = hindsight(facts(), curve(DYING))

    assert look.presets == {}
    for verdict in (*verdicts, *by_rules):
        assert str(look.of(verdict)) == "The judge chapter has no thresholds to change."


def test_every_preset_is_lenient_in_the_same_direction():
    for name, threshold in THRESHOLDS.items():
        sign = lenient_sign(name)
        assert sign * threshold.of(Preset.LENIENT) >= sign * threshold.default, name
        assert sign * threshold.of(Preset.STRICT) <= sign * threshold.default, name


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_whatever_was_said_the_changes_silence_it(seed, gate):
    trial = random_facts(seed)
    look, reports, verdicts = hindsight(trial, random_reports(trial, seed), gate=gate)
    for verdict in verdicts:
        found = look.of(verdict)
        assert bool(found.changes) != bool(found.obstacle)
        if found.changes:
            thresholds = {change.name: change.value for change in found.changes}
            assert not says(judged(trial, reports, gate=gate, **thresholds), verdict), verdict
        if verdict.limit:
            assert found.changes or verdict.rule in ("R1a", "R1c", "R1d"), verdict
        assert str(found)
    if gate and any(v.severity is Severity.PRUNE for v in verdicts):
        changes, obstacle = look.survival()
        assert bool(changes) != bool(obstacle)
