"""The cluster commands against a small HTTP server that answers as Ray's dashboard does.

How they fare with a real cluster is in tests/cluster.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from stabsearch.cli import main as cli
from stabsearch.cluster.jobs import Cluster
from stabsearch.spec_file import load_study


def job(study, **fields):
    metadata = {
        "stabsearch": "0.1.0",
        "stabsearch_study": study,
        "stabsearch_series": f"{study}-1a2b3c4d",
        "stabsearch_attempt": "1",
        "stabsearch_storage": "~/stabsearch",
        "stabsearch_fingerprint": "1a2b3c4d",
    }
    return {
        "type": "SUBMISSION",
        "submission_id": f"{study}-1a2b3c4d",
        "status": "RUNNING",
        "entrypoint": "python -m stabsearch run",
        "start_time": 1_800_000_000_000,
        "driver_node_id": "node",
        "metadata": metadata,
        **fields,
    }


JOBS = [
    {"type": "SUBMISSION", "submission_id": "of-somebody-else", "status": "RUNNING"}
    | {"entrypoint": "sleep 1", "metadata": {}},
    job("first", status="FAILED", driver_exit_code=3, end_time=1_800_000_065_000),
    job("second", status="FAILED", driver_exit_code=2, message="logs:\nerror: no such thing\n"),
    job("third", start_time=1_800_000_100_000),
]


@pytest.fixture
def dashboard(monkeypatch, tmp_path):
    """A dashboard that asks for the token ``secret``; ``mode`` and ``jobs`` may be changed."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server = self.server
            path = urlsplit(self.path).path
            token = self.headers.get("Authorization")
            server.tokens_seen.add(token)
            server.requests.append((path, token))
            is_open = path == "/api/authentication_mode" or server.mode == "disabled"
            if not is_open and token is None:
                return self.answer(401, "Unauthorized: Missing authentication token")
            if not is_open and token != "Bearer secret":
                return self.answer(403, "Forbidden: Invalid authentication token")
            if path == "/api/authentication_mode":
                return self.answer(200, json.dumps({"authentication_mode": server.mode}))
            if path == "/api/version":
                return self.answer(200, json.dumps({"ray_version": "2.60.0", "version": "4"}))
            if path == "/api/jobs/":
                return self.answer(200, json.dumps(server.jobs))
            for each in server.jobs:
                if path == f"/api/jobs/{each['submission_id']}":
                    return self.answer(200, json.dumps(each))
            if path == "/api/v0/logs/file":
                return self.answer(200, "hello\n[1/8] 0000-0  STABLE\nnoise\n")
            return self.answer(404, "404: Not Found")

        def answer(self, code, text):
            content = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.mode, server.jobs, server.tokens_seen = "token", list(JOBS), set()
        server.requests = []
        server.address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("STABSEARCH_ADDRESS", server.address)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(capsys, *arguments):
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_list_shows_studies_only_and_what_became_of_them(dashboard, capsys):
    code, out, err = run(capsys, "list")

    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 4)
    assert lines[0].split() == ["ID", "STATE", "STARTED", "TOOK"]
    assert lines[1].startswith("first-1a2b3c4d   done")
    assert lines[1].endswith("1:05  no setting was stable")
    assert lines[2].startswith("second-1a2b3c4d  failed")
    assert lines[2].endswith("error: no such thing")


def test_list_of_nothing_says_so(dashboard, capsys):
    dashboard.jobs = []

    assert "No study was submitted" in run(capsys, "list")[1]
    assert json.loads(run(capsys, "list", "--json")[1]) == []


def test_status_is_of_the_latest_study_and_says_how_far_it_is(dashboard, capsys):
    code, out, _ = run(capsys, "status")

    assert code == 0
    assert "third-1a2b3c4d" in out
    assert "[1/8] 0000-0  STABLE" in out
    assert "~/stabsearch/third on the head node" in out
    assert "token (RAY_AUTH_TOKEN)" in out


def test_status_as_json(dashboard, capsys):
    fields = json.loads(run(capsys, "status", "first", "--json")[1])

    assert (fields["id"], fields["state"], fields["exit_code"]) == ("first-1a2b3c4d", "done", 3)
    assert fields["message"] == "no setting was stable"


def test_logs_are_printed_as_they_are(dashboard, capsys):
    assert run(capsys, "logs", "third")[1] == "hello\n[1/8] 0000-0  STABLE\nnoise\n"


def test_stop_of_an_ended_study_is_no_error(dashboard, capsys):
    assert run(capsys, "stop", "first")[:2] == (0, "first-1a2b3c4d had ended: done.\n")


def test_authentication_off_is_said_loudly_and_no_token_is_shown_to_it(dashboard, capsys):
    dashboard.mode = "disabled"

    code, _, err = run(capsys, "list")

    assert code == 0
    assert "WARNING: token authentication is OFF" in err
    assert dashboard.tokens_seen == {None}


def test_a_token_that_was_given_is_not_shown_to_who_does_not_ask_either(dashboard):
    dashboard.mode = "disabled"

    assert Cluster(dashboard.address, token="mine").token is None
    assert dashboard.tokens_seen == {None}


def test_a_token_is_shown_only_after_it_was_asked_for(dashboard):
    cluster = Cluster(dashboard.address, token="secret")

    assert cluster.token is not None
    assert dashboard.requests[0] == ("/api/authentication_mode", None)
    assert {token for _, token in dashboard.requests[1:]} == {"Bearer secret"}


def test_fetch_refuses_a_name_that_leads_elsewhere(dashboard, capsys, tmp_path):
    bad = job("evil")
    bad["metadata"] |= {"stabsearch_study": "../../escaped"}
    dashboard.jobs = [bad]
    out = tmp_path / "deep" / "results"

    code, said, err = run(capsys, "fetch", "evil-1a2b3c4d", "--out", str(out))

    assert (code, said) == (2, "")
    assert "its study is named '../../escaped', which is no name of a study" in err
    assert list(tmp_path.rglob("*")) == []
    assert not any("log" in path for path, _ in dashboard.requests)


def test_fetch_to_the_home_of_nobody_is_one_message(dashboard, capsys):
    code, _, err = run(capsys, "fetch", "third", "--out", "~nosuchuser/x")

    assert code == 2
    assert "Give another folder with --out" in err


def test_metadata_of_others_does_not_break_the_list(dashboard, capsys):
    strange = job("strange")
    strange["metadata"] |= {"stabsearch_attempt": "many"}
    dashboard.jobs = [strange]

    assert run(capsys, "list")[0] == 0


def test_submitting_more_trials_while_the_study_runs_says_that_nothing_changed(
    dashboard, capsys, tmp_path
):
    study = tmp_path / "x.yaml"
    study.write_text("name: x\ntrials: 64\nspace: {learning_rate: {log_uniform: [1e-4, 1]}}\n")
    running = job("x")
    running["metadata"]["stabsearch_fingerprint"] = load_study(study).fingerprint()
    dashboard.jobs = [running]

    code, out, _ = run(capsys, "submit", str(study))

    assert code == 0
    assert out.startswith("x-1a2b3c4d is running already, with the trials and seeds it was")
    assert "To extend it, submit again once it has ended, or stop it first" in out


def test_the_address_may_come_from_rays_variables(dashboard, capsys, monkeypatch):
    monkeypatch.delenv("STABSEARCH_ADDRESS")
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, dashboard.address)

            assert run(capsys, "list")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["list"], {"STABSEARCH_ADDRESS": ""}, "Which cluster? Give --address"),
        (["list"], {"RAY_AUTH_TOKEN": ""}, "asks for a token and there is none here"),
        (["list"], {"RAY_AUTH_TOKEN": "no"}, "refused the token from RAY_AUTH_TOKEN"),
        (["list", "--address", "127.0.0.1:9"], {}, "Nothing answers at http://127.0.0.1:9"),
        (["list", "--address", "ray://h:10001"], {}, "is not the address of a Ray dashboard"),
        (["status", "nobody"], {}, "knows no study 'nobody'. It knows: third-1a2b3c4d, "),
        (["logs", "nobody"], {}, "knows no study"),
        (["stop", "nobody"], {}, "knows no study"),
        (["fetch", "nobody"], {}, "knows no study"),
        (["submit", "missing.yaml"], {}, "missing.yaml"),
        (["submit", "STUDY", "--storage", "results"], {}, "must be absolute or begin with ~/"),
        (["submit", "STUDY", "--id", "a b"], {}, "--id 'a b' may hold letters"),
        (["submit", "STUDY", "--working-dir", "none"], {}, "none is not a folder"),
    ],
)
def test_mistakes_are_one_message(
    dashboard, capsys, monkeypatch, tmp_path, arguments, variables, message
):
    study = tmp_path / "x.yaml"
    study.write_text("name: x\nspace: {learning_rate: {log_uniform: [1e-4, 1]}}\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    code, out, err = run(capsys, *[str(study) if a == "STUDY" else a for a in arguments])

    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_what_is_not_a_ray_dashboard_is_called_so(dashboard, capsys):
    dashboard.mode = "disabled"

    code, _, err = run(capsys, "list", "--address", f"{dashboard.address}/elsewhere")

    assert code == 2
    assert "is not the dashboard of a Ray cluster" in err
