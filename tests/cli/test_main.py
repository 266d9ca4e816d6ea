"""The command as a whole: help, version, exit codes, start-up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stabsearch.cli import main as cli
from stabsearch.errors import ClusterError, ResultsError, SpecError, StudyAborted

COMMANDS = (
    *("run", "validate", "init", "schema", "check-sampler"),
    *("recommend", "plot"),
    *("submit", "status", "logs", "stop", "fetch", "list"),
)
HEAVY = ("torch", "ray", "pandas", "pyarrow", "sklearn", "matplotlib", "optuna", "numpy")


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_command(capsys):
    assert cli.main(["--help"]) == 0

    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f" {command} " in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(capsys, command):
    assert cli.main([command, "--help"]) == 0

    assert f"stabsearch {command}" in capsys.readouterr().out.partition("Examples")[2]


def test_version_is_the_package_s(capsys):
    assert cli.main(["--version"]) == 0

    assert capsys.readouterr().out.startswith("stabsearch 0.")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["schema"], ["run", "STUDY", "--dry-run"]],
    ids=" ".join,
)
def test_start_up_imports_nothing_heavy(arguments, tmp_path):
    study = tmp_path / "x.yaml"
    study.write_text("name: x\nspace: {learning_rate: {log_uniform: [1e-4, 1]}}\n")
    code = (
        "import sys\n"
        "from stabsearch.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        f"print('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )

    done = python(code, *(str(study) if a == "STUDY" else a for a in arguments))

    assert done.returncode == 0, done.stderr
    # A study's cautions look at its noise schedule.
    allowed = ["numpy"] if "STUDY" in arguments else []
    assert done.stdout.splitlines()[-1] == f"HEAVY {allowed}"


def test_python_m_stabsearch_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "stabsearch", "validate", "no_such_file.yaml"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("error: no_such_file.yaml: there is no such file.")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SpecError("a\nb"), 2),
        (ResultsError("a\nb"), 2),
        (ClusterError("a\nb"), 2),
        (StudyAborted("a\nb"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_our_errors_are_messages_and_exit_codes(monkeypatch, capsys, error, code):
    def fail(**_):
        raise error

    monkeypatch.setattr(cli, "app", fail)

    assert cli.main([]) == code
    assert capsys.readouterr().err == "error: a\nerror: b\n"


class TestUnforeseenError:
    @pytest.fixture(autouse=True)
    def bug(self, monkeypatch, tmp_path):
        def fail(**_):
            raise ZeroDivisionError("by nothing")

        monkeypatch.delenv("STABSEARCH_DEBUG", raising=False)
        monkeypatch.setattr(cli, "app", fail)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        return tmp_path

    def test_is_a_short_message_and_a_file_with_the_traceback(self, bug, capsys):
        assert cli.main([]) == 1

        said = capsys.readouterr().err
        (file,) = bug.iterdir()
        assert said.startswith("error: ZeroDivisionError: by nothing\nerror: stabsearch did not")
        assert str(file) in said
        assert "Traceback" not in said
        assert "Traceback" in file.read_text()

    def test_shows_its_traceback_where_that_cannot_be_written(self, monkeypatch, capsys):
        monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")

        assert cli.main([]) == 1
        assert "Traceback" in capsys.readouterr().err

    def test_is_not_caught_while_debugging(self, monkeypatch):
        monkeypatch.setenv("STABSEARCH_DEBUG", "1")

        with pytest.raises(ZeroDivisionError):
            cli.main([])


def test_ctrl_c_is_exit_code_130(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("stabsearch.cli.study_commands.json_schema", interrupt)

    assert cli.main(["schema"]) == 130


def test_misspelt_command_answers_with_the_nearest(capsys):
    assert cli.main(["validates"]) == 2

    assert "Did you mean 'validate'?" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error():
    code = "import sys; from stabsearch.cli.main import main; sys.exit(main(['schema']))"
    writer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.close()
    complaints = writer.stderr.read()
    writer.stderr.close()

    writer.wait(timeout=60)
    assert complaints == ""
