"""The check of a study's sampler: with what it is run, and where its result goes."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from stabsearch.errors import SpecError
from stabsearch.records import SamplerCheck
from stabsearch.search.observer import StudyObserver
from stabsearch.search.sampler_checks import SamplerChecks, check_study_sampler, combinations
from stabsearch.search.study import prepare_study_data, run_study
from stabsearch.thresholds import DEFAULTS

SAMPLERS = "tests.search.samplers"
KINDS = {"prediction_type": {"choice": ["epsilon", "v_prediction"]}}
RATES = {"learning_rate": {"log_uniform": [2e-3, 2e-2]}}


def found(mean_z2, log_variance=0.0):
    return SamplerCheck(name="it", mean_z2=mean_z2, log_variance=log_variance)


def test_one_model_is_checked_where_nothing_that_matters_is_searched(tiny_study):
    assert combinations(tiny_study(space=RATES)) == ([{}], 0)


def test_all_combinations_are_checked_and_impossible_ones_left_out(tiny_study):
    space = {
        "prediction_type": {"choice": ["epsilon", "v_prediction"]},
        "noise_schedule.kind": {"choice": ["diffusion", "flow_matching"]},
    }
    chosen, num_left_out = combinations(tiny_study(space=RATES | space))

    assert len(chosen) == 4
    assert num_left_out == 0
    assert all(set(params) == set(space) for params in chosen)


def test_of_many_combinations_eight_are_checked(tiny_study):
    space = {
        "prediction_type": {"choice": ["epsilon", "sample", "v_prediction", "flow"]},
        "noise_schedule.beta_schedule": {"choice": ["linear", "scaled_linear", "sigmoid"]},
    }
    chosen, num_left_out = combinations(tiny_study(space=space))

    assert (len(chosen), num_left_out) == (8, 4)


def test_a_trial_gets_the_check_of_its_own_combination():
    checks = SamplerChecks(
        (({"prediction_type": "epsilon"}, found(1.0)), ({"prediction_type": "flow"}, found(9.0)))
    )

    assert checks.of({"learning_rate": 1, "prediction_type": "epsilon"}) == found(1.0)
    assert checks.of({"learning_rate": 1, "prediction_type": "flow"}) == found(9.0)
    assert SamplerChecks().of({"prediction_type": "flow"}) is None


def test_between_the_ends_of_a_range_the_worse_end_counts():
    checks = SamplerChecks(
        (
            ({"kind": "a", "beta": 0.01}, found(1.0)),
            ({"kind": "a", "beta": 0.05}, found(2.0)),
            ({"kind": "b", "beta": 0.01}, found(9.0)),
        )
    )

    assert checks.of({"kind": "a", "beta": 0.03}) == found(2.0)
    assert checks.of({"kind": "a", "beta": 0.01}) == found(1.0)


def test_the_log_hears_what_is_wrong_or_that_nothing_is():
    right, wrong = ({"kind": "a"}, found(1.0)), ({"kind": "b"}, found(9.0))

    [good] = SamplerChecks((right, right)).sentences(DEFAULTS)
    assert good.startswith("sampler it is right")
    [bad] = SamplerChecks((right, wrong)).sentences(DEFAULTS)
    assert "is wrong for this model" in bad
    assert bad.endswith("(kind=b)")
    assert SamplerChecks().sentences(DEFAULTS) == ()
    assert "3 more" in SamplerChecks((right,), 3).sentences(DEFAULTS)[-1]


def test_the_study_s_sampler_is_run_with_the_model_of_every_combination(tiny_study):
    study = tiny_study(space=RATES | KINDS, sampler={"name": f"{SAMPLERS}:reads_epsilon"})
    checks = check_study_sampler(study, prepare_study_data(study))

    epsilon, v = (check.mean_z2 for _, check in checks.checked)
    assert epsilon < DEFAULTS["R11.mean_z2"]
    assert v > 1000


def test_a_sampler_that_raises_ends_the_study_before_it_begins(tiny_study, tmp_path):
    study = tiny_study(sampler={"name": f"{SAMPLERS}:raises"})
    with pytest.raises(SpecError, match=r"sampler tests\.search\.samplers:raises: raised"):
        run_study(study)

    assert not (tmp_path / "results").exists()


def test_a_driver_without_a_sampler_needs_no_torch(tiny_study):
    code = (
        "import sys\n"
        "from stabsearch.search.sampler_checks import check_study_sampler\n"
        "from stabsearch.spec_file import parse_study\n"
        "space = {'learning_rate': {'log_uniform': [1e-4, 1]}}\n"
        "check_study_sampler(parse_study({'name': 'x', 'space': space}), None)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.ray
def test_a_wrong_sampler_is_told_at_the_start_on_each_trial_and_in_the_answer(
    local_ray, tiny_study
):
    class Listener(StudyObserver):
        heard = None

        def on_study_start(self, overview):
            self.heard = overview.sampler

    listener = Listener()
    study = tiny_study(trials=1, sampler={"name": f"{SAMPLERS}:not_a_number"})
    result = run_study(study, observer=listener)

    assert "does not draw samples" in listener.heard[0]
    [verdict] = result.results.verdicts.query("rule == 'R11'").to_dict("records")
    assert math.isinf(verdict["value"])
    assert any("check-sampler" in note for note in result.recommendation.notes)
