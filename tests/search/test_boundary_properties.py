"""What holds for every boundary search: random studies in random worlds."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from pydantic import ValidationError

from stabsearch.recommend.describe import describe, to_json
from stabsearch.recommend.pick import recommend_from
from stabsearch.records import Purpose
from stabsearch.spec import Choice, StudySpec
from tests.search.worlds import World, confirm, search

FURTHER: dict[str, list[Any]] = {
    "max_grad_norm": [
        {"log_uniform": [0.01, 100]},
        {"log_uniform": [0.9, 1.1]},
        {"uniform": [0.1, 5]},
        {"choice": [0.1, 1.0, None]},
        {"choice": [0.1, 1.0, 10.0]},
    ],
    "optimizer": [{"choice": ["adamw", "sgd"]}, {"choice": ["adamw", "adam"]}, "sgd"],
    "weight_decay": [
        {"choice": [0.0, 0.1]},
        {"uniform": [0.0, 0.2]},
        {"log_uniform": [1e-4, 0.1]},
    ],
    "beta2": [{"uniform": [0.9, 0.999]}, {"choice": [0.95, 0.99, 0.999]}],
    "ema_decay": [{"choice": [0.99, 0.999]}],
    "batch_size": [{"int": [16, 128], "log": True}, {"int": [32, 33]}, {"choice": [32, 64]}],
    "lr_warmup_fraction": [{"uniform": [0.0, 0.3]}, {"choice": [0.0, 0.05, 0.6]}],
    "prediction_type": [{"choice": ["epsilon", "v_prediction", "sample"]}],
    "loss_weighting": [{"choice": ["none", "min_snr"]}],
    "lr_schedule": [{"choice": ["constant", "cosine"]}],
    "max_train_steps": [{"choice": [500, 2000]}],
}


def random_study(generator: random.Random) -> StudySpec:
    """A valid one, of up to nine searched parameters."""
    while True:
        try:
            return StudySpec.model_validate(random_fields(generator))
        except ValidationError:
            continue  # a choice without effect beside another


def random_fields(generator: random.Random) -> dict[str, Any]:
    low = 10 ** generator.uniform(-5, -3)
    high = low * 2 ** generator.uniform(0.5, 14)
    kind = generator.choice(["log_uniform", "log_uniform", "log_uniform", "uniform"])
    space: dict[str, Any] = {"learning_rate": {kind: [low, high]}}
    for name in generator.sample(sorted(FURTHER), generator.choice([0, 1, 1, 2, 3, 5, 8])):
        space[name] = generator.choice(FURTHER[name])
    fields: dict[str, Any] = {
        "name": "a",
        "space": space,
        "trainer": {
            "max_train_steps": generator.choice([200, 2000, 2000]),
            "eval_every": generator.choice([20, 100]),
            "optimizer": generator.choice(["adamw", "sgd"]),
        },
        "searcher": {"name": "boundary", "probe_fraction": generator.choice([0.075, 0.1, 0.5])},
        "trials": generator.choice([1, 3, 8, 16, 32]),
        "margin_octaves": generator.choice([0.5, 1.0, 2.0]),
    }
    if generator.random() < 0.5:
        fields["stop_when"] = f"edge within {generator.choice([0.1, 0.25, 0.5, 1])} octave"
    if generator.random() < 0.5:
        stress = generator.choice([0, 1, 2])
        fields["confirm"] = {"seeds": generator.choice([1, 2, 5]), "stress_octaves": stress}
    return fields


def random_world(generator: random.Random, study: StudySpec) -> World:
    rates = study.searched()["learning_rate"]
    assert not isinstance(rates, Choice)
    low, high = math.log2(rates.low), math.log2(rates.high)
    edge = generator.uniform(low - 2, high + 2)
    return World(
        edge=edge,
        best=edge - generator.uniform(-2, 6),
        has_gauge=generator.random() < 0.8,
        learns_from=generator.choice([-math.inf, generator.uniform(low, high)]),
        late_edge=generator.choice([math.inf, edge - 0.5, edge - 2]),
        edge_moves_with_clip=generator.choice([0.0, 0.5, -0.3]),
    )


SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(1000, 1200)]


@pytest.mark.parametrize("seed", [*range(10), *SLOW])
def test_random_studies_in_random_worlds(seed):
    generator = random.Random(seed)
    study = random_study(generator)
    world = random_world(generator, study)
    proposed, went_on = [], []

    def check(proposal):
        what = (proposal.params, proposal.length)
        assert what not in proposed, "the same seed would say the same again"
        proposed.append(what)
        if proposal.goes_on is not None:
            went_on.append(proposal)
            return
        assert list(proposal.params) == list(study.searched())
        for name, domain in study.searched().items():
            value = proposal.params[name]
            if isinstance(domain, Choice):
                assert any(v is value or v == value for v in domain.choice)
            else:
                assert domain.low <= value <= domain.high
        study.trainer_for(proposal.params)  # valid together, too

    ended = confirm(
        study, world, search(study, world, workers=generator.choice([1, 2, 3, 6]), check=check)
    )
    answer = recommend_from(ended, study.model_dump(mode="json"))

    assert len(proposed) - len(went_on) <= study.trials
    assert len(went_on) <= 3 * study.trials
    assert len({r.trial_id for r in ended}) == len(ended)
    assert describe(answer)
    json.dumps(to_json(answer), allow_nan=False)
    if answer.params is None:
        assert not any(r.is_stable and r.purpose is Purpose.SEARCH for r in ended)
    else:
        clip = answer.params.get("max_grad_norm") or 1.0
        assert math.log2(answer.params["learning_rate"]) <= world.edge_at(clip)
