"""check-sampler, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stabsearch.cli.main import main
from stabsearch.errors import ExitCode

SAMPLERS = "tests.search.samplers"
STUDY = """\
name: test
space:
  learning_rate: {log_uniform: [1e-4, 1e-1]}
trainer: {prediction_type: v_prediction}
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def test_a_right_sampler_is_exit_code_0(capsys):
    assert main(["check-sampler", "ddim"]) == 0

    said = capsys.readouterr().out
    assert said.startswith("ddim, model of prediction_type=epsilon: 1000 samples, 50 calls")
    assert "all 55" in said
    assert "sampler ddim is right: z^2 0." in said


def test_too_few_steps_are_exit_code_5_with_the_remedy(capsys):
    code = main(["check-sampler", "ddpm", "--set", "num_inference_steps=10"])

    said = capsys.readouterr().out
    assert code == ExitCode.SAMPLER_WRONG == 5
    assert "draws too much alike: the mean of its samples is right" in said
    assert "It takes too few steps: with 40 it is right." in said


def test_a_study_says_what_the_model_is(capsys):
    Path("x.yaml").write_text(STUDY)
    assert main(["check-sampler", f"{SAMPLERS}:reads_epsilon", "--study", "x.yaml"]) == 5

    said = capsys.readouterr().out
    assert "model of prediction_type=v_prediction" in said
    assert "It is right for a model that predicts epsilon" in said


def test_the_study_s_own_sampler_is_the_default_and_its_options_can_be_changed(capsys):
    Path("x.yaml").write_text(STUDY + "sampler: {name: ddim, num_inference_steps: 60}\n")

    assert main(["check-sampler", "--study", "x.yaml"]) == 0
    assert "60 calls" in capsys.readouterr().out
    assert main(["check-sampler", "--study", "x.yaml", "--set", "num_inference_steps=70"]) == 0
    assert "70 calls" in capsys.readouterr().out
    assert main(["check-sampler", "ddpm", "--study", "x.yaml"]) == 0
    assert "100 calls" in capsys.readouterr().out


def test_every_searched_model_is_checked_and_json_has_the_numbers(capsys):
    space = "  prediction_type: {choice: [epsilon, v_prediction]}\n"
    Path("x.yaml").write_text(STUDY.replace("trainer:", f"{space}trainer:"))
    name = f"{SAMPLERS}:reads_epsilon"
    assert main(["check-sampler", name, "--study", "x.yaml", "--json"]) == 5

    first, second = json.loads(capsys.readouterr().out)
    assert first["params"] == {"prediction_type": "epsilon"}
    assert (first["is_right"], second["is_right"]) == (True, False)
    assert second["mean_z2"] > 1000
    assert len(second["z2"]) == len(second["variance_ratio"]) == 55
    assert "predicts epsilon" in second["explanation"]


def test_thresholds_are_those_of_the_study(capsys):
    Path("x.yaml").write_text(
        STUDY + "sampler: {name: ddim}\nanalyzer: {thresholds: {R11.log_variance: 0.05}}\n"
    )

    assert main(["check-sampler", "--study", "x.yaml"]) == 5


def test_samples_that_are_not_finite_are_json_too(capsys):
    assert main(["check-sampler", f"{SAMPLERS}:not_a_number", "--json"]) == 5

    [answer] = json.loads(capsys.readouterr().out)
    assert answer["mean_z2"] is None
    assert "does not draw samples" in answer["verdict"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Which sampler? Name one"),
        (["--study", "x.yaml"], "x.yaml: names no sampler. Name one"),
        (["dddim"], "sampler.name: dddim — is neither built in nor a reference"),
        (["ddim", "--set", "eta"], "--set eta: must be OPTION=VALUE"),
        (["ddim", "--set", "eta=[1"], "is not YAML"),
        (["ddim", "--set", "steps=5"], "sampler.steps: unknown field of ddim"),
        (["no_such:thing"], "no module named no_such"),
        ([f"{SAMPLERS}:raises"], "raised RuntimeError: this sampler is broken (samplers.py, line"),
        (["ddim", "--study", "y.yaml"], "y.yaml: there is no such file"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_message(capsys, arguments, message):
    Path("x.yaml").write_text(STUDY)
    assert main(["check-sampler", *arguments]) == 2

    [complaint] = capsys.readouterr().err.splitlines()
    assert complaint.startswith("error: ")
    assert message in complaint


def test_help_shows_the_codes(capsys):
    assert main(["check-sampler", "--help"]) == 0

    said = capsys.readouterr().out
    assert "stabsearch check-sampler my_samplers:heun" in said
    assert "Exit code 0: right; 5: wrong" in said
