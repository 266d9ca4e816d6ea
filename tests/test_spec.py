"""What a study may say, and what it means."""

from __future__ import annotations

import inspect
import math
import random

import pytest
from pydantic import ValidationError

from stabsearch.errors import SpecError
from stabsearch.problems import leaf_fields, problems_of
from stabsearch.spec import (
    BUILT_IN_DATA,
    BUILT_IN_MODELS,
    TORCH_OPTIMIZERS,
    Choice,
    IntRange,
    LogUniform,
    StudySpec,
    TrainerSpec,
    Uniform,
    is_study_name,
    may_be_searched,
    param_names,
)

LR = {"log_uniform": [1e-4, 1e-1]}


def study(**fields) -> StudySpec:
    return StudySpec.model_validate({"name": "test", "space": {"learning_rate": LR}} | fields)


def complaints(**fields) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        study(**fields)
    return [str(problem) for problem in problems_of(caught.value, StudySpec)]


# Each line: what is written, and the whole message it gets.
BAD_FIELDS = [
    (
        {"trainer": {"learning_rte": 1}},
        "trainer.learning_rte: unknown field. Did you mean learning_rate?",
    ),
    (
        {"learning_rate": 1e-3},
        "learning_rate: unknown field. Did you mean trainer.learning_rate?",
    ),
    (
        {"trainer": {"learning_rate": 0}},
        "trainer.learning_rate: 0 — must be greater than 0. Use a value such as 0.001, "
        "the default.",
    ),
    (
        {"trainer": {"learning_rate": -1.5}},
        "trainer.learning_rate: -1.5 — must be greater than 0. Use a value such as 0.001, "
        "the default.",
    ),
    (
        {"trainer": {"learning_rate": math.nan}},
        "trainer.learning_rate: nan — must be a finite number. Use a value such as 0.001, "
        "the default.",
    ),
    (
        {"trainer": {"prediction_type": "epsilonn"}},
        "trainer.prediction_type: epsilonn — must be one of epsilon, sample, v_prediction, flow. "
        "Did you mean epsilon?",
    ),
    (
        {"scheduler": {"inner": "bayes"}},
        "scheduler.inner: bayes — must be one of none, asha, median. Use one of these.",
    ),
    (
        {"scheduler": {"gauge_octaves": 0}},
        "scheduler.gauge_octaves: 0 — must be greater than 0. Use a number above 0, or null, the "
        "default.",
    ),
    (
        {"searcher": {"probe_fraction": 0.6}},
        "searcher.probe_fraction: 0.6 — must be at most 0.5. Use a value such as 0.1, the "
        "default.",
    ),
    (
        {"searcher": {"probe_fraction": 0.01}},
        "searcher.probe_fraction: 0.01 — must be at least 0.075. Use a value such as 0.1, the "
        "default.",
    ),
    (
        {"searcher": {"name": "grids"}},
        "searcher.name: grids — must be one of tpe, gp, random, grid, boundary. Did you mean "
        "grid?",
    ),
    *(
        (
            {"stop_when": words},
            f"stop_when: {words} — is not a precision. Write: edge within 0.25 octave.",
        )
        for words in ("soon", "edge within octaves", "edge within -1 octave", "edge within 1 step")
    ),
    (
        {"stop_when": "edge within 0 octaves"},
        "stop_when.edge_within_octaves: 0 — must be greater than 0. Use a number above 0.",
    ),
    (
        {"stop_when": {}},
        "stop_when.edge_within_octaves: is required. Add edge_within_octaves: ... (Half of the "
        "90% interval of the edge, at the recommended setting.)",
    ),
    (
        {"confirm": {"stress_octaves": -1}},
        "confirm.stress_octaves: -1 — must be at least 0. Use a value such as 1, the default.",
    ),
    ({"confirm": {"seed": 3}}, "confirm.seed: unknown field. Did you mean seeds?"),
    (
        {"horizon_steps": 0},
        "horizon_steps: 0 — must be at least 1. Use 1 or more, or null, the default.",
    ),
    (
        {"resources": {"workers": 0}},
        "resources.workers: 0 — must be at least 1. Use 1 or more, or null, the default.",
    ),
    ({"name": None}, "name: null — must be text. Write a text, such as my_text."),
    (
        {"stop_when": ["edge"]},
        "stop_when: [edge] — is not a precision. Write: edge within 0.25 octave.",
    ),
    (
        {"analyzer": {"thresholds": {"R1b.prune": -4}}},
        "analyzer.thresholds.R1b.prune: -4 — must be at least 0: share of its progress that a "
        "trial has lost, two windows on average. Use 0 or more; the default is 0.5.",
    ),
    (
        {"analyzer": {"thresholds": {"R7.share": 90}}},
        "analyzer.thresholds.R7.share: 90 — must be at most 1: one bin's share of the squared "
        "per-sample gradient norm. Use 1 or less; the default is 0.9.",
    ),
    (
        {"analyzer": {"thresholds": {"R1b.penalise": 0.9}}},
        "analyzer.thresholds.R1b.penalise: 0.9 — must not be above R1b.prune (0.5): R1b.penalise "
        "is the milder finding, and comes first. Use 0.5 or less, or set R1b.prune to 0.9 or "
        "more, too.",
    ),
    (
        {"analyzer": {"thresholds": {"R1b.prune": 0.1}}},
        "analyzer.thresholds.R1b.prune: 0.1 — must not be below R1b.penalise (0.2): R1b.penalise "
        "is the milder finding, and comes first. Use 0.2 or more, or set R1b.penalise to 0.1 or "
        "less, too.",
    ),
    (
        {"analyzer": {"preset": "strict", "thresholds": {"R1b.penalise": 0.45}}},
        "analyzer.thresholds.R1b.penalise: 0.45 — must not be above R1b.prune (0.4, preset "
        "strict): R1b.penalise is the milder finding, and comes first. Use 0.4 or less, or set "
        "R1b.prune to 0.45 or more, too.",
    ),
    (
        {"margin_octaves": 0},
        "margin_octaves: 0 — must be greater than 0. Use a value such as 1, the default.",
    ),
    ({"seeds": 0}, "seeds: 0 — must be at least 1. Use a value such as 1, the default."),
    ({"trials": 0}, "trials: 0 — must be at least 1. Use a value such as 32, the default."),
    (
        {"trials": 2.5},
        "trials: 2.5 — must be a whole number. Use a value such as 32, the default.",
    ),
    (
        {"trials": True},
        "trials: true — must be a number. Use a value such as 32, the default.",
    ),
    ({"trials": "8"}, 'trials: "8" — must be a number. Remove the quotes.'),
    (
        {"horizon_steps": "1e5"},  # as PyYAML reads it
        'horizon_steps: "1e5" — must be a number. Remove the quotes, or write 1.0e+5.',
    ),
    (
        {"trainer": {"learning_rate": "1e-3"}},
        'trainer.learning_rate: "1e-3" — must be a number. Remove the quotes, or write 1.0e-3.',
    ),
    (
        {"horizon_steps": "long"},
        "horizon_steps: long — must be a number. Write a whole number, such as 1, or null, the "
        "default.",
    ),
    (
        {"trainer": {"model": "mlp"}},
        "trainer.model: mlp — must be a section: fields below it, each as 'name: value'. Write "
        "model: {name: mlp}.",
    ),
    (
        {"trainer": {"data": "my_data:faces"}},
        "trainer.data: my_data:faces — must be a section: fields below it, each as 'name: "
        'value\'. Write data: {name: "my_data:faces"}.',
    ),
    (
        {"space": {"adam_beta2": {"uniform": [0.9, 1.5]}}},
        "space.adam_beta2: uniform: [0.9, 1.5] — 1.5 must be less than 1. Keep every value of "
        "adam_beta2 within that.",
    ),
    (
        {"analyzer": {"thresholds": {"R2.prune": 1}}},
        "analyzer.thresholds.R2.prune: unknown threshold. Known thresholds of R2: R2.errors, "
        "R2.ratio.",
    ),
    (
        {"trainer": 5},
        "trainer: 5 — must be a section: fields below it, each as 'name: value'. Indent its "
        "fields below it, or leave it out.",
    ),
    (
        {"name": "a/b c"},
        "name: a/b c — must be usable as a folder name: letters, digits, . _ - (at most 100, the "
        "first not . or -). Use a_b_c.",
    ),
    (
        {"name": ".."},
        "name: .. — must be usable as a folder name: letters, digits, . _ - (at most 100, the "
        "first not . or -). Use my_study.",
    ),
    ({"name": 12}, 'name: 12 — must be text. Put it in quotes: "12".'),
    (
        {"storage": "s3://bucket/results"},
        "storage: s3://bucket/results — must be a folder on this machine or a shared file system. "
        "Write results to a folder, and copy it to the bucket afterwards.",
    ),
    (
        {"storage": "~nosuchuser/x"},
        "storage: ~nosuchuser/x — there is no such home folder on this machine. Use ~/ for your "
        "own, or the folder's full path.",
    ),
    (
        {"storage": "a\0b"},
        "storage: no folder's name holds a NUL character. Remove it.",
    ),
    (
        {"trainer": {"model": {"name": "mpl"}}},
        "trainer.model.name: mpl — is neither built in nor a reference module:function. "
        "Did you mean mlp?",
    ),
    (
        {"trainer": {"data": {"name": "cifar"}}},
        "trainer.data.name: cifar — is neither built in nor a reference module:function. "
        "Use digits, image_folder, array, parquet, torchvision, huggingface, mixture, gaussian, "
        "or write my_data:load.",
    ),
    (
        {"trainer": {"model": {"widths": 32}}},
        "trainer.model.widths: unknown field of mlp. Did you mean width?",
    ),
    (
        {"trainer": {"model": {"width": 33}}},
        "trainer.model.width: 33 — must be a multiple of 2. Use a value such as 64, the default.",
    ),
    (
        {"trainer": {"data": {"size": 8}}},
        "trainer.data.size: unknown field of digits. Remove it.",
    ),
    (
        {"resources": {"gpus": 1.5}},
        "resources.gpus: 1.5 — above 1 must be a whole number. Use 2.",
    ),
    (
        {"resources": {"cpus": 0}},
        "resources.cpus: 0 — a trial that needs neither CPU nor GPU has no limit of workers. "
        "Ask for cpus: 1, or set resources.workers.",
    ),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS, ids=lambda value: str(value)[:50])
def test_bad_field_is_named_with_its_rule_and_remedy(fields, message):
    assert [message] == complaints(**fields)


GIVEN = {"beta_schedule": "given", "num_train_timesteps": 20}

BAD_TOGETHER = [
    (
        {"trainer": {"report_every": 3000}},
        "trainer.report_every: 3000 — must be at most max_train_steps (2000). Lower report_every "
        "or raise max_train_steps.",
    ),
    (
        {"trainer": {"report_every": 30}},
        "trainer.eval_every: 100 — must be a multiple of report_every (30). Use 90 or 120.",
    ),
    (
        {"trainer": {"noise_schedule": {"num_train_timesteps": 4}}},
        "trainer.num_timestep_bins: 10 — must be at most noise_schedule.num_train_timesteps (4). "
        "Use 4 bins, or more timesteps.",
    ),
    (
        {"trainer": {"noise_schedule": {"beta_start": 0.02}}},
        "trainer.noise_schedule.beta_start: 0.02 — must be less than beta_end (0.02). Lower "
        "beta_start or raise beta_end; the usual pair is 0.0001 and 0.02.",
    ),
    (
        {"trainer": {"noise_schedule": {"beta_schedule": "given"}}},
        "trainer.noise_schedule.trained_betas: goes together with beta_schedule: given, and only "
        "with it. List the betas as trained_betas, or name a schedule such as linear.",
    ),
    (
        {"trainer": {"noise_schedule": {"trained_betas": [0.1] * 1000}}},
        "trainer.noise_schedule.trained_betas: goes together with beta_schedule: given, and only "
        "with it. Set beta_schedule: given, or remove trained_betas.",
    ),
    (
        {"trainer": {"noise_schedule": {"beta_schedule": "given", "trained_betas": [0.1] * 20}}},
        "trainer.noise_schedule.trained_betas: holds 20 betas for 1000 timesteps. Set "
        "num_train_timesteps: 20, or list one beta for every timestep.",
    ),
    (
        {"trainer": {"noise_schedule": GIVEN | {"trained_betas": [0.1] * 10 + [1] + [0.1] * 9}}},
        "trainer.noise_schedule.trained_betas[10]: 1 — a beta of 1 removes all signal; only the "
        "last timestep may. Use betas below 1 before the last.",
    ),
    *(
        (
            {"trainer": {"noise_schedule": schedule, "loss_weighting": "min_snr"}},
            "trainer.loss_weighting: min_snr — divides by the SNR, which is 0 at the last "
            "timestep (flow_matching or rescale_betas_zero_snr) where prediction_type is epsilon. "
            "Use prediction_type: v_prediction, loss_weighting: none, or a schedule whose "
            "terminal SNR is not 0.",
        )
        for schedule in (
            {"rescale_betas_zero_snr": True},
            {"kind": "flow_matching"},
            {
                "beta_schedule": "given",
                "num_train_timesteps": 20,
                "trained_betas": [0.1] * 19 + [1],
            },
        )
    ),
    (
        {"trainer": {"optimizer_options": {"alpha": 0.9}}},
        "trainer.optimizer_options: alpha: 0.9 — has no effect with optimizer adamw, which has "
        "fields of its own. Remove it, or name a class of torch.optim such as RMSprop.",
    ),
    (
        {"trainer": {"lr_warmup_steps": 3000}},
        "trainer.lr_warmup_steps: 3000 — must be at most max_train_steps (2000). A trial would "
        "never reach its learning rate: lower it, or use lr_warmup_fraction.",
    ),
    (
        {"space": {"learning_rate": LR, "snr_gamma": {"uniform": [1, 10]}}},
        "space.snr_gamma: has no effect with loss_weighting none. Remove it, or set "
        "loss_weighting to min_snr or soft_min_snr.",
    ),
    (
        {
            "space": {"loss_weighting": {"choice": ["none", "p2"]}},
            "trainer": {"noise_schedule": {"kind": "flow_matching"}},
        },
        "space.loss_weighting: p2 — divides by the SNR, which is 0 at the last "
        "timestep (flow_matching or rescale_betas_zero_snr) where prediction_type is epsilon. "
        "Use prediction_type: v_prediction, loss_weighting: none, or a schedule whose terminal "
        "SNR is not 0.",
    ),
    *(
        (
            {"searcher": {"name": "boundary"}, "space": space},
            "searcher.name: boundary — looks along a range of learning rates, and the space holds "
            "none. Add space.learning_rate: {log_uniform: [1e-5, 1e-1]}, or use another "
            "searcher, such as tpe.",
        )
        for space in (
            {"max_grad_norm": {"log_uniform": [0.1, 10]}},
            {"learning_rate": {"choice": [1e-3, 1e-2]}},
        )
    ),
    (
        {"stop_when": "edge within 0.5 octave", "space": {"batch_size": {"int": [16, 64]}}},
        "stop_when: looks along a range of learning rates, and the space holds none. Add "
        "space.learning_rate: {log_uniform: [1e-5, 1e-1]}, or remove it.",
    ),
    (
        {"trainer": {"device": "cuda"}},
        "trainer.device: cuda — a trial on cuda needs a share of a GPU, but resources.gpus is 0. "
        "Set resources.gpus: 1 (or a fraction), or device: auto.",
    ),
]


@pytest.mark.parametrize(("fields", "message"), BAD_TOGETHER, ids=lambda value: str(value)[:50])
def test_fields_that_do_not_fit_together_are_refused(fields, message):
    assert [message] == complaints(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"name": "parquet", "path": "a.parquet", "columns": []},
            "trainer.data.columns: [] — must not be empty. Name at least one, or null, the "
            "default.",
        ),
        (
            {"name": "gaussian", "spectrum": []},
            "trainer.data.spectrum: [] — must not be empty. Name at least one, or null, the "
            "default.",
        ),
        (
            {"name": "parquet", "path": ""},
            'trainer.data.path: "" — must not be empty. Write at least one letter.',
        ),
    ],
)
def test_what_must_not_be_empty_says_so(fields, message):
    assert [message] == complaints(trainer={"data": fields})


def test_a_confirmation_needs_a_seed():
    (message,) = complaints(confirm={"seeds": 0})

    assert message.startswith("confirm.seeds: 0 — must be at least 1. ")


@pytest.mark.parametrize(
    ("words", "octaves"),
    [
        ("edge within 0.25 octave", 0.25),
        ("edge within 1 octave", 1.0),
        (" edge  within 0.5\n octaves ", 0.5),
        ({"edge_within_octaves": 2}, 2.0),
    ],
)
def test_a_precision_is_said_in_words_or_as_a_number(words, octaves):
    assert study(stop_when=words).stop_when.edge_within_octaves == octaves


def test_cosine_schedule_ignores_betas():
    noise_schedule = {"beta_schedule": "squaredcos_cap_v2", "beta_start": 0.5, "beta_end": 0.1}

    spec = study(trainer={"noise_schedule": noise_schedule})

    assert spec.trainer.noise_schedule.beta_start == 0.5


def test_device_cuda_is_fine_with_a_share_of_a_gpu():
    spec = study(trainer={"device": "cuda"}, resources={"gpus": 0.25})

    assert spec.trainer.device == "cuda"


BAD_SPACE = [
    (
        {},
        "space: {} — nothing is searched: at least one entry must be a domain. "
        "Add for example learning_rate: {log_uniform: [1e-4, 0.1]}.",
    ),
    (
        {"learning_rate": 0.1},
        "space: learning_rate: 0.1 — nothing is searched: at least one entry must be a domain. "
        "Add for example learning_rate: {log_uniform: [1e-4, 0.1]}.",
    ),
    (
        {"learning_rate": {"log_uniform": [0, 0.1]}},
        "space.learning_rate: log_uniform: [0, 0.1] — the low end of a log range must be greater "
        "than 0. Use uniform, or a low end such as 1e-6.",
    ),
    (
        {"batch_size": {"int": [0, 64], "log": True}},
        "space.batch_size: int: [0, 64], log: true — the low end of a log range must be greater "
        "than 0. Leave log out, or a low end such as 1.",
    ),
    (
        {"learning_rate": {"log_uniform": [0.1, 0.01]}},
        "space.learning_rate: log_uniform: [0.1, 0.01] — the low end must be less than the high "
        "end. Swap them: [0.01, 0.1].",
    ),
    (
        {"learning_rate": {"uniform": [0.1, 0.1]}},
        "space.learning_rate: uniform: [0.1, 0.1] — the low end must be less than the high end. "
        "Write the value itself, 0.1, if it should not be searched.",
    ),
    (
        {"learning_rate": {"uniform": [-1, 0.1]}},
        "space.learning_rate: uniform: [-1, 0.1] — -1 must be greater than 0. Keep every value of "
        "learning_rate within that.",
    ),
    (
        {"learning_rate": {"log_uniform": [0.1]}},
        "space.learning_rate.log_uniform: [0.1] — must be two numbers in brackets: [low, high]. "
        "Write both ends of the range.",
    ),
    (
        {"learning_rate": {"log_uniform": ["small", 0.1]}},
        "space.learning_rate.log_uniform[0]: small — must be a number. Write a number, such as "
        "0.1 or 1e-3.",
    ),
    (
        {"learning_rate": {"uniform": [1, math.inf]}},
        "space.learning_rate.uniform[1]: inf — must be a finite number. Write a number with "
        "digits, such as 0.1 or 1e-3.",
    ),
    (
        {"learning_rate": {"log_uniform": [math.nan, 1]}},
        "space.learning_rate.log_uniform[0]: nan — must be a finite number. Write a number with "
        "digits, such as 0.1 or 1e-3.",
    ),
    (
        {"learning_rate": {"loguniform": [0.01, 0.1]}},
        "space.learning_rate: loguniform: [0.01, 0.1] — is not a domain: those are log_uniform, "
        "uniform, int, choice. Did you mean log_uniform?",
    ),
    (
        {"learning_rate": {"uniform": [0.1, 0.2], "choice": [0.1, 0.3]}},
        "space.learning_rate: uniform: [0.1, 0.2], choice: [0.1, 0.3] — names two domains. Keep "
        "one of uniform, choice.",
    ),
    (
        {"learning_rate": [0.1, 0.2]},
        "space.learning_rate: [0.1, 0.2] — a list is neither a domain nor a constant. Write "
        "{choice: [0.1, 0.2]} to choose from these.",
    ),
    (
        {"learning_rte": LR},
        "space.learning_rte: unknown trainer field. Did you mean learning_rate?",
    ),
    (
        {"trainer.learning_rate": LR},
        "space.trainer.learning_rate: unknown trainer field. Did you mean learning_rate?",
    ),
    (
        {"beta_schedule": {"choice": ["linear", "squaredcos_cap_v2"]}},
        "space.beta_schedule: unknown trainer field. Did you mean noise_schedule.beta_schedule?",
    ),
    (
        {"model": {"choice": ["mlp", "other"]}},
        "space.model: is a section, not a field. Name one of its fields: model.name, "
        "model.time_embedding, model.conditioning, model.residual, model.width, "
        "model.num_blocks, model.layer_norm, model.num_resolutions, model.attention, "
        "model.num_heads, model.patch_size, model.mlp_ratio.",
    ),
    (
        {"noise_schedule.beta_schedule": {"choice": ["linear", "cosine"]}},
        "space.noise_schedule.beta_schedule: choice: [linear, cosine] — cosine must be one of "
        "linear, scaled_linear, squaredcos_cap_v2, sigmoid, given. Use one of these.",
    ),
    (
        {"noise_schedule.beta_schedule": {"choice": ["linear", "linear"]}},
        "space.noise_schedule.beta_schedule.choice: [linear, linear] — linear is there more than "
        "once. List every value once.",
    ),
    (
        {"noise_schedule.beta_schedule": {"choice": ["linear"]}},
        "space.noise_schedule.beta_schedule.choice: [linear] — must hold two or more. Write the "
        "value itself, linear, or add another.",
    ),
    (
        {"max_grad_norm": {"choice": [None, -1]}},
        "space.max_grad_norm: choice: [null, -1] — -1 must be greater than 0. Keep every value of "
        "max_grad_norm within that.",
    ),
    (
        {"learning_rate": {"choice": [[1], 2]}},
        "space.learning_rate.choice[0]: [1] — must be a number, text, true, false or null. Quote "
        "it if text is meant.",
    ),
    (
        {"batch_size": {"uniform": [16, 64]}},
        "space.batch_size: uniform: [16, 64] — must be a whole number. Use {int: [16, 64]}.",
    ),
    (
        {"batch_size": {"int": [0, 64]}},
        "space.batch_size: int: [0, 64] — 0 must be at least 1. Keep every value of batch_size "
        "within that.",
    ),
    (
        {"batch_size": {"int": [16, 64], "lgo": True}},
        "space.batch_size.lgo: unknown field. Did you mean log?",
    ),
    (
        {"learning_rate": LR, "prediction_type": "eps"},
        "space.prediction_type: eps — must be one of epsilon, sample, v_prediction, flow. Did you "
        "mean "
        "epsilon?",
    ),
    (
        {"model.width": {"int": [16, 64]}},
        "space.model.width: 17 — must be a multiple of 2. Use a value such as 64, the default.",
    ),
    (
        {"model.name": {"choice": ["mlp", "mpl"]}},
        "space.model.name: choice: [mlp, mpl] — mpl is neither built in nor a reference "
        "module:function. Did you mean mlp?",
    ),
    (
        {"max_train_steps": {"choice": [10, 100]}},
        "space.max_train_steps: 10 — report_every (25) must be at most max_train_steps (10). "
        "Lower report_every or raise max_train_steps.",
    ),
    (
        {"learning_rate": LR, "eval_every": 101},
        "space.eval_every: 101 — must be a multiple of report_every (25). Use 100 or 125.",
    ),
    (
        {"noise_schedule.beta_start": {"log_uniform": [1e-4, 0.1]}},
        "space.noise_schedule.beta_start: 0.1 — must be less than beta_end (0.02). Lower "
        "beta_start or raise beta_end; the usual pair is 0.0001 and 0.02.",
    ),
    (
        {"learning_rate": LR, "device": "cuda"},
        "space.device: cuda — a trial on cuda needs a share of a GPU, but resources.gpus is 0. "
        "Set resources.gpus: 1 (or a fraction), or device: auto.",
    ),
    (
        {"momentum": {"uniform": [0.1, 0.9]}},
        "space.momentum: has no effect with optimizer adamw. Remove it, or set optimizer to sgd.",
    ),
]


@pytest.mark.parametrize(("space", "message"), BAD_SPACE, ids=lambda value: str(value)[:50])
def test_bad_space_entry_is_named_with_its_rule_and_remedy(space, message):
    assert [message] == complaints(space=space)


SAME = "so it must be the same for all trials of a study."
NOT_SEARCHED = [
    ("num_timestep_bins", {"int": [5, 20]}, "decides how every score is measured"),
    ("eval_samples", {"choice": [500, 1000]}, "decides how every score is measured"),
    ("data", {"choice": ["digits", "a:b"]}, "decides which examples every score is measured on"),
    ("data.name", {"choice": ["digits", "a:b"]}, "decides which examples every score"),
    ("data.split_seed", {"int": [0, 9]}, "decides which examples every score is measured on"),
    ("data.held_out_fraction", {"uniform": [0.1, 0.5]}, "decides which examples every score"),
    ("data.size", {"choice": [16, 32]}, "decides which examples every score is measured on"),
    (
        "report_every",
        {"choice": [25, 50]},
        "decides when a trial is judged, and not how it trains",
    ),
    ("eval_every", {"choice": [25, 50]}, "decides when a trial is judged, and not how it trains"),
    ("device", {"choice": ["cpu", "auto"]}, "decides where a trial runs, and not how it trains"),
]


@pytest.mark.parametrize(("name", "domain", "rule"), NOT_SEARCHED, ids=lambda value: str(value))
def test_what_measures_a_trial_is_not_searched(name, domain, rule):
    (message,) = complaints(space={"learning_rate": LR, name: domain})

    assert message.startswith(f"space.{name}: ")
    assert f" — {rule}" in message
    assert SAME in message
    assert message.endswith(
        f"Write one value as trainer.{name}; to compare several, run a study for each (extends: "
        "derives one file from another)."
    )


def test_what_measures_a_trial_may_be_a_constant_of_the_space():
    spec = study(space={"learning_rate": LR, "num_timestep_bins": 5, "data.split_seed": 3})

    assert spec.trainer_for({}).num_timestep_bins == 5
    assert spec.trainer_for({}).data.split_seed == 3


def test_every_other_field_may_be_searched():
    fixed = {name for name in param_names() if not may_be_searched(name)}

    assert {name for name in fixed if not name.startswith("data.")} == {
        *("eval_samples", "num_timestep_bins", "report_every", "eval_every", "grad_norm_every"),
        *("device", "noise_schedule.trained_betas"),
    }
    assert {name for name in param_names() if name.startswith("data.")} <= fixed


def test_searching_the_noise_schedule_is_allowed_with_a_caution():
    form = {"choice": ["linear", "squaredcos_cap_v2"]}
    spec = study(space={"learning_rate": LR, "noise_schedule.beta_schedule": form})

    (caution,) = spec.cautions()
    assert caution.startswith("space.noise_schedule.beta_schedule: ")
    assert study().cautions() == []


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ({}, None),
        ({"noise_schedule": {"rescale_betas_zero_snr": True}}, "where no signal is left"),
        ({"noise_schedule": {"kind": "flow_matching"}}, "where no signal is left"),
        (
            {"noise_schedule": {"kind": "flow_matching"}, "prediction_type": "flow"},
            None,
        ),
        ({"noise_schedule": {"num_train_timesteps": 100}}, "x_T still holds signal (KL to pure"),
        ({"loss": "clamped_mse"}, "clamped_mse has no gradient"),
        ({"loss": "huber"}, None),
        (
            {
                "noise_schedule": {"rescale_betas_zero_snr": True},
                "prediction_type": "v_prediction",
                "loss_weighting": "min_snr",
            },
            "gives the last timestep, from which a sampler starts, nothing",
        ),
        (
            {
                "noise_schedule": {"beta_schedule": "squaredcos_cap_v2"},
                "loss_weighting": "edm",
            },
            "puts 100% of all weight on timestep 999",
        ),
        (
            {"num_timestep_bins": 500},
            "500 bins need 64 samples each for one look at the loss, which is 500 steps, and a "
            "trial has 2,000: that is 4.0 looks",
        ),
        # 10 bins need 64 samples each: 20 steps of 32, which is 8 looks in 160 steps.
        ({"batch_size": 32, "report_every": 4, "eval_every": 20, "max_train_steps": 160}, None),
        (
            {"batch_size": 32, "report_every": 4, "eval_every": 20, "max_train_steps": 156},
            "num_timestep_bins: 10 bins need 64 samples each for one look at the loss, which is "
            "20 steps, and a trial has 156: that is 7.8 looks",
        ),
        (  # a look ends with a report: 6 of them hold enough, not 5.9
            {"batch_size": 32, "report_every": 3, "eval_every": 21, "max_train_steps": 160},
            "which is 21 steps",
        ),
        (
            {"report_every": 100, "eval_every": 100, "max_train_steps": 600},
            "report_every: one look at the loss is a report, of 100 steps, and a trial has 600: "
            "that is 6.0 looks, too few to see it lose its progress. Report more often, or train "
            "longer.",
        ),
    ],
    ids=str,
)
def test_what_is_seldom_meant_gets_a_caution(trainer, words):
    found = study(trainer=trainer).cautions()

    assert len(found) == (words is not None)
    assert words is None or words in found[0]


@pytest.mark.parametrize(
    ("space", "trainer"),
    [
        ({"loss": {"choice": ["mse", "clamped_mse"]}}, {}),
        (
            {"prediction_type": {"choice": ["v_prediction", "epsilon"]}},
            {
                "noise_schedule": {"rescale_betas_zero_snr": True},
                "prediction_type": "v_prediction",
            },
        ),
    ],
    ids=str,
)
def test_a_caution_looks_at_every_searched_value(space, trainer):
    assert len(study(space={"learning_rate": LR, **space}, trainer=trainer).cautions()) == 1


@pytest.mark.parametrize("name", ["a", "_a", "0", "a.b-c_d", "a" * 100])
def test_names_that_a_folder_may_have(name):
    assert is_study_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-a", "a b", "a\n", "a" * 101])
def test_names_that_no_study_has(name):
    assert not is_study_name(name)


def test_all_problems_are_told_at_once():
    found = complaints(
        trials=0,
        trainer={"learning_rte": 1, "optimizer": "adamm"},
        space={"learning_rate": {"log_uniform": [0, 1]}, "batch": 3},
    )

    where = sorted(line.split(":")[0] for line in found)
    assert where == [
        "space.learning_rate",
        "trainer.learning_rte",
        "trainer.optimizer",
        "trials",
    ]


def test_momentum_may_be_searched_where_sgd_is_among_the_choices():
    space = {"momentum": {"uniform": [0.1, 0.9]}, "optimizer": {"choice": ["adamw", "sgd"]}}

    assert list(study(space=space).searched()) == ["momentum", "optimizer"]


def test_a_reference_takes_fields_of_its_own_and_they_can_be_searched():
    spec = study(
        trainer={"model": {"name": "my_models:unet", "channels": 32}},
        space={"model.depth": {"int": [1, 3]}},
    )

    model = spec.trainer_for({"model.depth": 2}).model
    assert model.model_extra == {"channels": 32, "depth": 2}


def test_domains_are_told_apart():
    space = {
        "learning_rate": LR,
        "weight_decay": {"uniform": [0, 0.1]},
        "batch_size": {"int": [16, 64]},
        "prediction_type": {"choice": ["epsilon", "sample"]},
        "max_grad_norm": None,
    }
    spec = study(space=space)

    kinds = [type(domain) for domain in spec.searched().values()]
    assert kinds == [LogUniform, Uniform, IntRange, Choice]
    assert spec.constants() == {"max_grad_norm": None}


def test_params_lie_over_constants_and_these_over_the_trainer():
    spec = study(
        trainer={"learning_rate": 0.5, "max_grad_norm": 5, "momentum": 0.3},
        space={
            "learning_rate": LR,
            "max_grad_norm": None,
            "noise_schedule.beta_schedule": {"choice": ["linear", "squaredcos_cap_v2"]},
        },
    )

    trainer = spec.trainer_for(
        {"learning_rate": 0.01, "noise_schedule.beta_schedule": "squaredcos_cap_v2"}
    )

    assert trainer.learning_rate == 0.01
    assert trainer.max_grad_norm is None
    assert trainer.momentum == 0.3
    assert trainer.noise_schedule.beta_schedule == "squaredcos_cap_v2"
    assert trainer.noise_schedule.beta_end == spec.trainer.noise_schedule.beta_end


def test_params_that_make_no_trainer_are_refused():
    with pytest.raises(SpecError, match=r"learning_rate: -1 — must be greater than 0"):
        study().trainer_for({"learning_rate": -1.0})
    with pytest.raises(SpecError, match=r"learning_rte: unknown field"):
        study().trainer_for({"learning_rte": 1.0})


@pytest.mark.parametrize(
    "domain",
    [
        LogUniform(log_uniform=(1e-5, 10)),
        Uniform(uniform=(-1, 2)),
        IntRange(int=(1, 3)),
        IntRange(int=(1, 512), log=True),
    ],
    ids=lambda domain: str(domain),
)
def test_samples_fill_the_range(domain):
    generator = random.Random(0)

    values = [domain.sample(generator) for _ in range(2000)]

    assert domain.low <= min(values) <= max(values) <= domain.high
    if isinstance(domain, IntRange):
        assert {type(value) for value in values} == {int}
        assert {domain.low, domain.high} <= set(values)


def test_log_samples_favour_no_octave():
    generator = random.Random(0)
    domain = LogUniform(log_uniform=(1e-4, 1e-2))

    below = sum(domain.sample(generator) < 1e-3 for _ in range(4000))

    assert below == pytest.approx(2000, abs=150)


def test_choice_samples_every_value():
    generator = random.Random(0)
    domain = Choice(choice=[None, 1, "a"])

    assert {None, 1, "a"} == {domain.sample(generator) for _ in range(100)}


def test_true_and_one_are_different_choices():
    assert Choice(choice=[True, 1]).choice == [True, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"searcher": {"seed": 1}},
        {"scheduler": {"gate": False}},
        {"trainer": {"batch_size": 32}},
        {"space": {"learning_rate": {"log_uniform": [1e-4, 2e-1]}}},
        {"space": {"learning_rate": LR, "max_grad_norm": None}},
    ],
    ids=str,
)
def test_fingerprint_changes_with_what_changes_results(change):
    assert study().fingerprint() != study(**change).fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"storage": "/elsewhere"},
        {"trials": 33},  # a study can be extended
        {"seeds": 2},
        {"resources": {"workers": 3, "cpus": 2, "max_failures": 0}},
        {"trainer": {"learning_rate": 1e-3}},  # the default, written out
        {"space": {"learning_rate": LR, "max_grad_norm": 1.0}},  # likewise, as a constant
        {"space": {"learning_rate": LogUniform(log_uniform=(1e-4, 1e-1))}},
    ],
    ids=str,
)
def test_fingerprint_stays_where_results_stay(change):
    assert study().fingerprint() == study(**change).fingerprint()


def test_fingerprint_knows_the_order_in_which_a_searcher_draws():
    clip = {"log_uniform": [0.1, 10]}
    one = study(space={"learning_rate": LR, "max_grad_norm": clip})
    other = study(space={"max_grad_norm": clip, "learning_rate": LR})

    assert one.fingerprint() != other.fingerprint()


def test_path_is_relative_to_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")

    assert study(storage="out").path == tmp_path / "out" / "test"
    assert str(study(storage="~/out").path) == "/home/someone/out/test"
    assert str(study(storage="/abs").path) == "/abs/test"


def test_step_budget_counts_settings_seeds_and_the_longest_trial():
    assert study(trials=3, seeds=2).step_budget() == 3 * 2 * 2000
    searched = {"learning_rate": LR, "max_train_steps": {"choice": [100, 300]}}
    assert study(trials=3, space=searched).step_budget() == 3 * 300
    constant = {"learning_rate": LR, "max_train_steps": 200}
    assert study(trials=3, space=constant).step_budget() == 3 * 200


def test_references_are_listed_with_their_fields():
    spec = study(
        trainer={"data": {"name": "my_data:load"}},
        space={"learning_rate": LR, "model.name": {"choice": ["mlp", "my_models:unet"]}},
    )

    expected = {
        "space.model.name.choice[1]": "my_models:unet",
        "trainer.data.name": "my_data:load",
    }
    assert expected == spec.references()


def test_every_field_of_a_study_is_described():
    bare = [name for name, info in leaf_fields(StudySpec) if not info.description]

    assert bare == []
    assert all(param_names().values())


def test_built_in_names_and_fields_agree_with_the_code():
    datasets = pytest.importorskip("stabsearch.diffusion.datasets")
    models = pytest.importorskip("stabsearch.diffusion.models")

    for built_in, known in ((BUILT_IN_MODELS, models.MODELS), (BUILT_IN_DATA, datasets.DATASETS)):
        assert list(built_in) == list(known)
        for name, options in built_in.items():
            taken = {
                parameter.name: parameter.default
                for parameter in inspect.signature(known[name]).parameters.values()
                if parameter.name != "sample_shape"
            }
            declared = {
                field: inspect.Parameter.empty if info.is_required() else info.default
                for field, info in options.model_fields.items()
            }
            assert taken == declared


def test_a_norm_type_may_be_infinite_and_survives_json():
    spec = study(trainer={"grad_norm_type": "inf"})
    again = StudySpec.model_validate_json(spec.model_dump_json())

    assert spec.trainer.grad_norm_type == math.inf
    assert again == spec


def test_torch_optimizers_are_those_of_torch_that_need_gradients_only():
    import torch

    special = {"Optimizer", "LBFGS", "Muon", "SparseAdam", "Adam", "AdamW", "SGD"}
    classes = {name for name, item in vars(torch.optim).items() if inspect.isclass(item)}

    assert set(TORCH_OPTIMIZERS) == classes - special


def test_options_of_a_torch_optimizer_may_be_searched():
    spec = study(
        space={"learning_rate": LR, "optimizer_options.alpha": {"uniform": [0.9, 0.99]}},
        trainer={"optimizer": "RMSprop", "optimizer_options": {"centered": True}},
    )

    assert spec.trainer_for({"optimizer_options.alpha": 0.95}).optimizer_options == {
        "centered": True,
        "alpha": 0.95,
    }


def test_a_spec_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        study().trials = 3  # type: ignore[misc]


def test_trainer_defaults_are_valid():
    assert TrainerSpec.model_validate(TrainerSpec().model_dump()) == TrainerSpec()
