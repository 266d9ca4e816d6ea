"""Studies on a real cluster: everything over HTTP, with the token on."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from stabsearch.cli import main as cli
from stabsearch.cluster.jobs import Cluster, JobState
from stabsearch.errors import ClusterError, ResultsError
from stabsearch.results.frames import load
from stabsearch.spec_file import dump_study, parse_study

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning"),  # Ray's
]

TRAINER = {"max_train_steps": 40, "report_every": 10, "eval_every": 40, "eval_samples": 100}


@pytest.fixture(scope="module")
def cluster(head_node):
    return Cluster(head_node.address, token=head_node.token)


def submit(cluster, spec, **options):
    return cluster.submit(dump_study(spec), spec.name, spec.fingerprint(), **options)


def wait_for_line(cluster, job_id, text, seconds=60.0):
    """Until the study has printed ``text``."""
    deadline = time.monotonic() + seconds
    while text not in (log := "".join(cluster.logs(job_id))):
        assert time.monotonic() < deadline, log
        time.sleep(0.3)


def test_a_study_goes_out_with_own_code_and_comes_home(head_node, tmp_path, monkeypatch, capsys):
    def stabsearch(*arguments):
        code = cli.main(list(arguments))
        return code, capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_TOKEN", head_node.token)
    monkeypatch.setenv("STABSEARCH_ADDRESS", head_node.address)
    Path("code").mkdir()
    Path("code", "my_data.py").write_text(
        "import numpy\n"
        "def ramp(count):\n"
        "    return numpy.linspace(-1, 1, count * 8, dtype='float32').reshape(count, 8)\n"
    )
    spec = parse_study(
        {
            "name": "errand",
            "trials": 2,
            "space": {"learning_rate": {"log_uniform": [1e-4, 1e-2]}},
            "trainer": TRAINER | {"data": {"name": "my_data:ramp", "count": 120}},
        }
    )
    Path("errand.yaml").write_text(dump_study(spec))

    _, submitted = stabsearch("submit", "errand.yaml", "--working-dir", "code")
    _, again = stabsearch("submit", "errand.yaml", "--working-dir", "code")
    code, log = stabsearch("logs", "errand", "--follow")
    status = json.loads(stabsearch("status", "errand", "--json")[1])
    listed = json.loads(stabsearch("list", "--json")[1])
    fetched = [stabsearch("fetch", "errand") for _ in range(2)]
    trials = load("results/errand").trials

    job_id = f"errand-{spec.fingerprint()[:8]}"
    assert submitted.startswith(f"Submitted {job_id}.")
    assert again.startswith(f"{job_id} is running already")
    assert "[2/2]" in log
    assert code in (0, 3), log
    assert (status["id"], status["state"], status["exit_code"]) == (job_id, "done", code)
    assert status["progress"].startswith("RECOMMENDED") or code == 3
    assert job_id in [job["id"] for job in listed]
    assert {text.partition(".")[0] for _, text in fetched} == {"Fetched to results/errand"}
    assert list(trials["steps"]) == [40, 40]
    assert [each.name for each in Path("results").iterdir()] == ["errand"]
    assert (head_node.home / "stabsearch" / "errand" / "study.json").exists()


def test_a_stopped_study_keeps_its_trials_and_goes_on_when_submitted_again(cluster, tmp_path):
    spec = parse_study(
        {
            "name": "halted",
            "trials": 300,
            "space": {"learning_rate": {"log_uniform": [1e-4, 1e-2]}},
            "trainer": TRAINER,
        }
    )

    first = submit(cluster, spec, label="mine")
    wait_for_line(cluster, first.id, " 3/300]")
    running = cluster.job(first.id)
    progress = cluster.progress(running)
    midway = load(cluster.fetch(first.id, tmp_path)).trials
    other = spec.model_copy(update={"searcher": spec.searcher.model_copy(update={"seed": 1})})
    with pytest.raises(ClusterError, match="another version of study 'halted'"):
        submit(cluster, other)
    stopped = cluster.stop(first.id)
    ended = load(cluster.fetch(first.id, tmp_path)).trials
    num_ended = (ended["outcome"] != "running").sum()

    second = submit(cluster, spec, label="mine")
    wait_for_line(cluster, second.id, f"{num_ended + 1}/300]")
    cluster.stop(second.id)
    with pytest.raises(ClusterError, match="other settings"):
        submit(cluster, other, label="mine")

    assert first.id == "halted-mine"
    assert running.state is JobState.RUNNING
    assert "/300]" in progress
    assert (midway["outcome"] != "running").sum() >= 3
    assert stopped.state is JobState.STOPPED
    assert 3 <= num_ended < 300
    assert (ended["outcome"] == "completed").sum() >= 3
    assert (second.id, second.resumes) == ("halted-mine-2", "halted-mine")
    assert cluster.job("halted-mine").id == second.id
    assert "halted-mine" in [job.id for job in cluster.jobs()]


def test_a_failing_study_says_why(cluster, tmp_path):
    submission = cluster.submit("{}", "broken", "0" * 64, entrypoint="echo the reason; exit 1")
    job = cluster.wait(submission.id, 30)

    assert (job.state, job.exit_code, job.message) == (JobState.FAILED, 1, "the reason")
    with pytest.raises(ClusterError, match=r"There is no .*/stabsearch/broken"):
        cluster.fetch("broken", tmp_path)


def test_a_folder_that_was_not_fetched_is_left_alone(cluster, tmp_path):
    cluster.submit("{}", "mine", "0" * 64, entrypoint="true")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")

    with pytest.raises(ResultsError, match="left as it is"):
        cluster.fetch("mine", tmp_path)

    assert (tmp_path / "mine" / "notes.txt").read_text() == "precious"


def test_an_unknown_study_is_answered_with_the_known_ones(cluster):
    with pytest.raises(ClusterError, match=r"knows no study 'nobody'\. It knows: "):
        cluster.job("nobody")


def test_the_address_that_was_given_wins_over_the_environment(head_node, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")

    cluster = Cluster(head_node.address, token=head_node.token)

    assert isinstance(cluster.jobs(), list)
    assert os.environ["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:9"


def test_without_a_token_the_remedy_is_named(head_node, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)

    with pytest.raises(ClusterError, match="asks for a token and there is none here"):
        Cluster(head_node.address)


def test_a_wrong_token_is_refused_by_name(head_node, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "not-the-token")

    with pytest.raises(ClusterError, match="refused the token from RAY_AUTH_TOKEN"):
        Cluster(head_node.address)


def test_nothing_listening_is_said_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()

        with pytest.raises(ClusterError, match="Nothing answers at"):
            Cluster(address)

    assert time.monotonic() - began < 3
