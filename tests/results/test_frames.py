import subprocess
import sys

import pandas as pd
import pytest

from stabsearch.errors import ResultsError
from stabsearch.results import schema
from stabsearch.results.frames import load
from stabsearch.results.store import StudyStore
from tests import synthetic_study as synthetic


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "demo"
    return synthetic.write(folder, synthetic.draw(8, seeds=2), with_tables=True)


def test_frames_hold_every_trial(path):
    results = load(path)

    assert results.name == "demo"
    assert results.study["space"] == synthetic.SPACE
    assert len(results.trials) == 16
    assert set(results.reports["trial_id"]) == set(results.trials["trial_id"])
    assert len(results.timesteps) == len(results.reports) * synthetic.NUM_BINS
    unwell = results.trials[results.trials["rule"] != ""]
    assert set(results.verdicts["trial_id"]) == set(unwell["trial_id"])


def test_frames_are_read_once(path):
    results = load(str(path))

    assert results.reports is results.reports


def test_whole_numbers_stay_whole_beside_nulls(path):
    frame = load(path).trials

    assert frame["verdict_step"].dtype == pd.Int64Dtype()
    assert frame["steps"].dtype == "int64"


def test_a_study_that_has_just_begun_has_empty_frames_with_columns(tmp_path):
    StudyStore(tmp_path / "demo").create({"name": "demo"}, "fingerprint")

    results = load(tmp_path / "demo")

    for table, columns in schema.TABLES.items():
        frame = getattr(results, table)
        assert frame.empty
        assert list(frame.columns) == [column.name for column in columns]
    assert results.records() == []


def test_a_missing_folder_is_named_with_the_remedy(tmp_path):
    with pytest.raises(ResultsError, match=r"nowhere: there is no such folder.*<storage>/<name"):
        load(tmp_path / "nowhere")


def test_the_folder_above_names_the_studies_inside(path):
    with pytest.raises(ResultsError, match=r"no study\.json\. Studies inside it: demo\."):
        load(path.parent)


def test_a_study_without_its_trials_says_so(tmp_path):
    StudyStore(tmp_path / "demo").create({"name": "demo"}, "fingerprint")
    (tmp_path / "demo" / "trials.parquet").unlink()

    with pytest.raises(ResultsError, match=r"has lost its trials\.parquet\. Fetch the folder"):
        load(tmp_path / "demo")


def test_reading_recommending_and_drawing_need_neither_torch_nor_ray(path, tmp_path):
    code = f"""
import sys
from stabsearch.cli import result_commands
assert "pandas" not in sys.modules and "sklearn" not in sys.modules, "slow --help"
from pathlib import Path
from stabsearch.recommend.describe import describe
from stabsearch.recommend.pick import recommend
from stabsearch.report.figures import write_map
from stabsearch.results.frames import load
results = load({str(path)!r})
answer = recommend(results)
describe(answer, results.trials)
write_map(results, answer, Path({str(tmp_path)!r}))
results.timesteps, results.verdicts
print(sorted({{"torch", "ray", "optuna", "matplotlib.pyplot"}} & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert result.stdout.strip() == "[]", result.stderr
