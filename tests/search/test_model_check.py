"""When a study's model is tried before its trials: no Ray is needed to say what is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stabsearch.errors import SpecError
from stabsearch.search.study import check_model, prepare_study_data

MODELS = "tests.search.models"


def test_a_model_that_cannot_be_built_is_a_mistake_in_the_study(tiny_study):
    study = tiny_study(trainer={"model": {"name": f"{MODELS}:broken"}})

    with pytest.raises(SpecError, match=r"^trainer\.model: .*this model cannot be built"):
        check_model(study, prepare_study_data(study))


def test_of_models_to_choose_from_each_is_tried(tiny_study):
    space = {
        "learning_rate": {"log_uniform": [1e-3, 1e-2]},
        "model.name": {"choice": ["mlp", f"{MODELS}:broken"]},
    }
    study = tiny_study(space=space, trainer={"model": {}})

    with pytest.raises(SpecError, match=r"\(with model\.name: tests\.search\.models:broken\)"):
        check_model(study, prepare_study_data(study))


def test_a_model_that_begins_with_nan_is_a_mistake_in_the_study(tiny_study):
    study = tiny_study(trainer={"model": {"name": f"{MODELS}:BeginsWithNaN"}})

    with pytest.raises(SpecError, match=r"NaN or Inf before any training, for examples that are"):
        check_model(study, prepare_study_data(study))


def test_a_study_of_the_mlp_waits_for_no_import_of_torch(tiny_study):
    script = (
        "import sys\n"
        "from stabsearch.search.study import check_model, prepare_study_data\n"
        "from stabsearch.spec import StudySpec\n"
        "study = StudySpec.model_validate_json(sys.stdin.read())\n"
        "check_model(study, prepare_study_data(study))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=tiny_study().model_dump_json(),
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0
