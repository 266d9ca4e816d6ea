import json

import pytest
import typer
from typer.testing import CliRunner

from stabsearch.cli import result_commands
from stabsearch.errors import ResultsError
from stabsearch.recommend.confirm import planned_trials
from tests import synthetic_study as synthetic

runner = CliRunner()


@pytest.fixture(scope="module")
def app():
    app = typer.Typer()
    result_commands.add_to(app)
    return app


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("results") / "demo", synthetic.draw(32))


def test_recommend_prints_the_answer(app, path):
    result = runner.invoke(app, ["recommend", str(path)])

    assert result.exit_code == 0
    assert result.output.startswith("RECOMMENDED      learning_rate ")
    assert "WHY OTHERS FAIL" in result.output


def test_recommend_json_is_json_alone(app, path):
    result = runner.invoke(app, ["recommend", str(path), "--json"])

    assert result.exit_code == 0
    assert json.loads(result.output)["num_trials"] == 32


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_recommend_exits_with_3_when_nothing_was_stable(app, tmp_path, options):
    path = synthetic.write(tmp_path / "demo", [synthetic.diverged(n) for n in range(3)])

    result = runner.invoke(app, ["recommend", str(path), *options])

    assert result.exit_code == 3
    assert result.output


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize(("asked", "code"), [(3.0, 0), (0.01, 4)])
def test_recommend_exits_with_4_when_the_edge_is_less_precise_than_asked(
    app, tmp_path, options, asked, code
):
    path = synthetic.write(
        tmp_path / "demo", synthetic.draw(32), stop_when={"edge_within_octaves": asked}
    )

    result = runner.invoke(app, ["recommend", str(path), *options])

    assert result.exit_code == code
    if options:
        assert json.loads(result.output)["is_precise"] is (code == 0)
    else:
        assert ("NOT as precisely as was asked" in result.output) is (code == 4)


@pytest.mark.parametrize(("breaks", "code"), [(False, 0), (True, 4)])
def test_recommend_exits_with_4_when_the_setting_did_not_hold(app, tmp_path, breaks, code):
    study = {"space": synthetic.SPACE, "confirm": {"seeds": 2, "stress_octaves": 1}}
    records = synthetic.boundary(clips=(1.0,), num_full=1)
    make = synthetic.diverged if breaks else synthetic.record
    records += [
        make(plan.setting, plan.seed, params=plan.params, purpose=plan.purpose)
        for plan in planned_trials(records, study)
    ]
    path = synthetic.write(tmp_path / "demo", records, confirm=study["confirm"])

    result = runner.invoke(app, ["recommend", str(path)])

    assert result.exit_code == code
    assert ("\nNOT CONFIRMED" in result.output) is breaks
    assert ("\nCONFIRMED" in result.output) is not breaks


@pytest.mark.parametrize("command", [["recommend"], ["plot"]])
def test_a_missing_study_is_one_error_for_main_to_print(app, tmp_path, command):
    result = runner.invoke(app, [*command, str(tmp_path / "nowhere")])

    assert isinstance(result.exception, ResultsError)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("command", ["recommend", "plot"])
def test_a_file_is_not_a_study_s_folder(app, tmp_path, command):
    (tmp_path / "study.yaml").write_text("name: demo")

    result = runner.invoke(app, [command, str(tmp_path / "study.yaml")])

    assert isinstance(result.exception, ResultsError)
    assert "study.yaml: is a file, not a study's folder." in str(result.exception)


def test_plot_writes_into_the_study_and_says_where(app, path):
    result = runner.invoke(app, ["plot", str(path), "map"])

    assert result.exit_code == 0
    figures = [path / "figures" / "map.png", path / "figures" / "map.svg"]
    assert result.output.split() == [str(figure) for figure in figures]
    assert all(figure.exists() for figure in figures)


def test_plot_writes_elsewhere_on_request(app, path, tmp_path):
    result = runner.invoke(app, ["plot", str(path), "--out", str(tmp_path / "out")])

    assert result.exit_code == 0
    assert (tmp_path / "out" / "map.png").exists()


def test_an_unknown_figure_lists_the_known_ones(app, path):
    result = runner.invoke(app, ["plot", str(path), "mapX"])

    assert result.exit_code == 2
    assert "'map'" in result.output


@pytest.mark.parametrize("command", ["recommend", "plot"])
def test_help_has_an_example(app, command):
    result = runner.invoke(app, [command, "--help"])

    assert result.exit_code == 0
    assert f"stabsearch {command} results/digits_lr_clip" in result.output
