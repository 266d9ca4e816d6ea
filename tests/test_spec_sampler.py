"""The section ``sampler`` of a study."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from stabsearch.errors import SpecError
from stabsearch.references import check_references
from stabsearch.spec import BUILT_IN_SAMPLERS, SamplerSpec
from stabsearch.spec_file import dump_study, json_schema, load_study, parse_study

MINIMAL = {"name": "x", "space": {"learning_rate": {"log_uniform": [1e-4, 1e-1]}}}


def study(sampler, space=None, **trainer):
    fields = MINIMAL | {"sampler": sampler, "trainer": trainer}
    return parse_study(fields | {"space": MINIMAL["space"] | (space or {})})


def test_a_study_names_no_sampler_unless_it_says_so():
    assert parse_study(MINIMAL).sampler is None


def test_options_of_a_reference_are_its_own():
    sampler = study({"name": "my_samplers:heun", "num_inference_steps": 20, "churn": 0.1}).sampler

    assert sampler.options == {"num_inference_steps": 20, "churn": 0.1}


def test_options_of_the_built_ins_are_their_parameters():
    pytest.importorskip("torch")
    from stabsearch.diffusion.samplers import SAMPLERS, SPACINGS
    from stabsearch.spec.sampler import BuiltInSamplerOptions

    given = {"model", "shape", "generator", "noise_schedule", "prediction_type"}
    assert set(SAMPLERS) == set(BUILT_IN_SAMPLERS)
    for name, options in BUILT_IN_SAMPLERS.items():
        parameters = inspect.signature(SAMPLERS[name]).parameters
        defaults = {n: p.default for n, p in parameters.items() if n not in given}

        assert defaults == options().model_dump()
    spacing = BuiltInSamplerOptions.model_json_schema()["properties"]["timestep_spacing"]
    assert set(spacing["enum"]) == set(SPACINGS)


@pytest.mark.parametrize(
    ("sampler", "trainer", "message"),
    [
        ({"name": "dddim"}, {}, "sampler.name: dddim — is neither built in.*Did you mean ddim?"),
        (
            {"name": "ddim", "num_inference_step": 3},
            {},
            "sampler.num_inference_step: unknown field of ddim. Did you mean num_inference_steps?",
        ),
        ({"name": "ddpm", "eta": 0.5}, {}, "sampler.eta: unknown field of ddpm"),
        ({"name": "ddim", "eta": 2}, {}, "sampler.eta: 2 — must be at most 1"),
        ({"name": "ddim", "num_inference_steps": 0}, {}, "num_inference_steps: 0 — must be at le"),
        ("ddim", {}, "sampler: ddim — must be a section"),
        (
            {"name": "ddim", "num_inference_steps": 2000},
            {},
            r"num_inference_steps: 2000 — must be at most .*num_train_timesteps \(1000\)",
        ),
        (
            {"name": "ddpm"},
            {"noise_schedule": {"kind": "flow_matching"}, "prediction_type": "flow"},
            "sampler.name: ddpm — reverses a diffusion.*Use name: ddim with eta: 0",
        ),
        (
            {"name": "ddim", "eta": 0.5},
            {"noise_schedule": {"kind": "flow_matching"}, "prediction_type": "flow"},
            "sampler.eta: 0.5 — reverses a diffusion",
        ),
        (
            {"name": "ddim"},
            {"noise_schedule": {"rescale_betas_zero_snr": True}},
            "sampler.timestep_spacing: trailing begins at the last timestep.*zero terminal SNR",
        ),
    ],
)
def test_what_a_sampler_may_not_be(sampler, trainer, message):
    with pytest.raises(SpecError, match=message):
        study(sampler, **trainer)


def test_every_searched_prediction_type_must_suit_the_sampler():
    space = {"prediction_type": {"choice": ["v_prediction", "epsilon"]}}
    trainer = {"noise_schedule": {"rescale_betas_zero_snr": True}}
    with pytest.raises(SpecError, match="prediction_type epsilon says nothing"):
        study({"name": "ddim"}, space, **trainer)

    study({"name": "ddim", "timestep_spacing": "leading"}, space, **trainer)
    study({"name": "my_samplers:anything"}, space, **trainer)


def test_a_reference_is_imported_before_the_study_starts():
    spec = study({"name": "no_such_module:sampler"})

    assert spec.references() == {"sampler.name": "no_such_module:sampler"}
    with pytest.raises(SpecError, match=r"sampler\.name: no_such_module:sampler — no module"):
        check_references(spec)
    assert study({"name": "ddim"}).references() == {}


def test_a_study_may_name_a_sampler_later():
    """No trial trains with it, so the fingerprint, by which a study resumes, stays."""
    assert study({"name": "ddim"}).fingerprint() == study(None).fingerprint()


def test_it_is_written_out_and_read_back(tmp_path):
    spec = study({"name": "my_samplers:heun", "churn": 0.1})
    file = tmp_path / "x.yaml"
    for each in (spec, study(None)):
        file.write_text(dump_study(each))

        assert load_study(file) == each


def test_another_sampler_does_not_inherit_the_options_of_the_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(
        "name: x\nspace: {learning_rate: {log_uniform: [1e-4, 1]}}\n"
        "sampler: {name: ddim, eta: 0.5}\n"
    )
    Path("same.yaml").write_text("extends: base.yaml\nsampler: {num_inference_steps: 20}\n")
    Path("other.yaml").write_text("extends: base.yaml\nsampler: {name: ddpm}\n")

    assert load_study("same.yaml").sampler.options == {"eta": 0.5, "num_inference_steps": 20}
    assert load_study("other.yaml").sampler == SamplerSpec(name="ddpm")


def test_the_schema_describes_it():
    schema = json_schema()

    assert schema["$defs"]["SamplerSpec"]["properties"]["name"]["default"] == "ddim"
