"""One real Ray on this machine for all tests of the search, and tiny studies to run on it."""

from __future__ import annotations

import pytest
import ray

from stabsearch.spec import StudySpec

TINY_TRAINER = {
    "model": {"name": "mlp", "width": 32, "num_blocks": 1},
    "max_train_steps": 60,
    "report_every": 10,
    "eval_every": 20,
    "eval_samples": 50,
    "batch_size": 64,
}


@pytest.fixture(scope="session")
def local_ray():
    """Shared by the session: starting Ray takes seconds, and our code joins what it finds."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=256 * 2**20,
    )
    yield
    ray.shutdown()


@pytest.fixture
def tiny_study(tmp_path):
    """A function that makes a valid study of seconds, with changes by section."""

    def make(*, trainer=None, space=None, **changes):
        fields = {
            "name": "tiny",
            "space": space or {"learning_rate": {"log_uniform": [2e-3, 2e-2]}},
            "trainer": TINY_TRAINER | (trainer or {}),
            "searcher": {"startup_trials": 2},
            "resources": {"workers": 1},
            "trials": 3,
            "storage": str(tmp_path / "results"),
        }
        return StudySpec.model_validate(fields | changes)

    return make
