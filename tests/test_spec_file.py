"""Study files: YAML in, StudySpec out, one clear message otherwise."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

import stabsearch
from stabsearch.errors import SpecError
from stabsearch.spec import StudySpec
from stabsearch.spec.search import ConfirmSpec, StopSpec
from stabsearch.spec_file import dump_study, json_schema, load_study, parse_study, starter_file

ROOT = Path(__file__).parents[1]
SEARCH_SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
MINIMAL = "name: test\nspace:\n  learning_rate: {log_uniform: [1e-4, 1e-1]}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes files in a fresh current directory."""
    monkeypatch.chdir(tmp_path)

    def write_file(text: str | bytes, name: str = "x.yaml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


def complaint(path: str | Path) -> str:
    with pytest.raises(SpecError) as caught:
        load_study(path)
    return str(caught.value)


@pytest.mark.parametrize("path", SEARCH_SPACES, ids=lambda path: path.stem)
def test_our_search_spaces_are_valid_and_named_after_their_file(path):
    assert load_study(path).name == path.stem


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("1E-4", 1e-4),
        ("2e-3", 2e-3),
        (".5e-2", 0.005),
        ("3e0", 3.0),
        ("1.e-3", 1e-3),
        ("1.5e+0", 1.5),
        ("0.25", 0.25),
    ],
)
def test_numbers_with_an_exponent_are_numbers_everywhere(write, written, value):
    path = write(
        f"name: test\nspace:\n  learning_rate: {{choice: [{written}, 10]}}\n"
        f"trainer:\n  max_grad_norm: {written}\n  model: {{name: 'my:net', gain: {written}}}\n"
    )
    spec = load_study(path)

    assert spec.searched()["learning_rate"].probes() == [value, 10]
    assert spec.trainer.max_grad_norm == value
    assert spec.trainer.model.model_extra == {"gain": value}


def test_quoted_numbers_and_names_with_digits_stay_text(write):
    path = write(MINIMAL + "trainer: {model: {name: 'my:net', a: '1e-4', b: v1e4, c: 1e}}\n")

    options = load_study(path).trainer.model.model_extra
    assert options == {"a": "1e-4", "b": "v1e4", "c": "1e"}


BAD_FILES = [
    ("", "x.yaml: is empty. `stabsearch init` writes a file to start from."),
    ("# nothing\n", "x.yaml: is empty. `stabsearch init` writes a file to start from."),
    (
        "- name: a\n",
        "x.yaml: must hold fields, each 'name: value', but is a list. `stabsearch init` writes a "
        "file to start from.",
    ),
    (
        "just words\n",
        "x.yaml: must hold fields, each 'name: value', but is a single value. `stabsearch init` "
        "writes a file to start from.",
    ),
    (
        "name: test\nspace: {learning_rate: [1\n",
        "x.yaml:3: is not YAML: while parsing a flow sequence, expected ',' or ']', but got "
        "'<stream end>'. Check the indentation, colons and brackets there.",
    ),
    (
        "name: test\n  trials: 3\n",
        "x.yaml:2: is not YAML: mapping values are not allowed here. Check the indentation, "
        "colons and brackets there.",
    ),
    (
        "name: test\nspace: &a\n  learning_rate: {uniform: *a}\n",
        "x.yaml:3: *a: stands inside of what it names. Write it out.",
    ),
    (
        "name: test\nspace: {learning_rate: {choice: &b [1, *b]}}\n",
        "x.yaml:2: *b: stands inside of what it names. Write it out.",
    ),
    (
        MINIMAL + "trials: 3\nname: other\n",
        "x.yaml:5: name: is there twice, first on line 1. Remove one of them.",
    ),
    (
        "name: t\nspace:\n  learning_rate: 1\n  learning_rate: {uniform: [0.1, 1]}\n",
        "x.yaml:4: learning_rate: is there twice, first on line 3. Remove one of them.",
    ),
    (b"\xff\xfe\x00bad", "x.yaml: is not text. Write the study as YAML in UTF-8."),
    (
        "name: test\n",
        "x.yaml: space: is required. Add space: ... (Trainer field (dotted below a section) -> "
        "the values to try: log_uniform, uniform, int, choice, or a constant, which overrides "
        "the trainer's.)",
    ),
    (
        "name: test\nspace: {learning_rate: {log_uniform: [0, 0.1]}}\ntrainer: {lr: 1}\n",
        "x.yaml: space.learning_rate: log_uniform: [0, 0.1] — the low end of a log range must be "
        "greater than 0. Use uniform, or a low end such as 1e-6.\n"
        "x.yaml: trainer.lr: unknown field. `stabsearch schema` lists all 46 fields.",
    ),
    (
        "name: test\nspace: {learning_rate: {choice: [2026-01-01, 1]}}\n",
        "x.yaml: space.learning_rate.choice[0]: 2026-01-01 — must be a number, text, true, false "
        "or null. Quote it if text is meant.",
    ),
    (
        "extends: 3\n",
        "x.yaml: extends: 3 — must be the path of another study file. Write for example "
        "extends: digits_lr_clip.yaml.",
    ),
    (
        "extends: nope.yaml\n",
        "x.yaml: extends: nope.yaml — there is no file nope.yaml. The path is relative to the "
        "file that names it.",
    ),
    (
        "extends: ~nosuchuser/b.yaml\n",
        "x.yaml: extends: ~nosuchuser/b.yaml — cannot be a study file: Could not determine home "
        "directory. Write the path of one, relative to the file that names it.",
    ),
    (
        'extends: "b\\0.yaml"\n',
        'x.yaml: extends: "b\\u0000.yaml" — cannot be a study file: embedded null byte. Write the '
        "path of one, relative to the file that names it.",
    ),
    (
        f"extends: {'b' * 300}.yaml\n",
        f"x.yaml: extends: {'b' * 77}... — cannot be a study file: File name too long. Write the "
        "path of one, relative to the file that names it.",
    ),
    (
        "extends: x.yaml\n",
        "x.yaml: extends: x.yaml — the files extend each other in a circle: x.yaml -> x.yaml. "
        "Remove one of these lines.",
    ),
    (
        "name: !!python/object/apply:os.system [ls]\n",
        "x.yaml:1: !!python/object/apply:os.system is a tag that no study file may hold: only "
        "plain values are read. Remove it.",
    ),
    (
        "name: !mine x\n",
        "x.yaml:1: !mine is a tag that no study file may hold: only plain values are read. "
        "Remove it.",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES, ids=lambda value: str(value)[:40])
def test_bad_file_gets_one_clear_message(write, text, message):
    assert message == complaint(write(text))


def test_missing_file_names_those_that_are_there(write):
    write(MINIMAL, "b.yaml")
    write(MINIMAL, "a.yml")

    assert complaint("x.yaml") == "x.yaml: there is no such file. Study files in .: a.yml, b.yaml."
    assert "there is no such file. Check the path" in complaint("no_folder/x.yaml")


def test_a_folder_is_not_a_study_file(tmp_path):
    assert f"{tmp_path}: is a folder. Name a study file in it." == complaint(tmp_path)


class TestExtends:
    BASE = (
        "name: base\n"
        "trials: 8\n"
        "space:\n"
        "  learning_rate: {log_uniform: [1e-4, 1e-1]}\n"
        "  max_grad_norm: {int: [1, 64], log: true}\n"
        "trainer:\n"
        "  model: {name: mlp, width: 32}\n"
        "  noise_schedule: {num_train_timesteps: 500, beta_end: 0.03}\n"
        "  weight_decay: 0.1\n"
    )

    @pytest.fixture
    def extended(self, write):
        write(self.BASE, "folder/base.yaml")

        def load(text: str) -> StudySpec:
            return load_study(write(f"extends: folder/base.yaml\n{text}", "child.yaml"))

        return load

    def test_sections_merge_field_by_field(self, extended):
        spec = extended("name: child\ntrainer: {noise_schedule: {beta_end: 0.05}}\n")

        assert (spec.name, spec.trials) == ("child", 8)
        schedule = spec.trainer.noise_schedule
        assert (schedule.num_train_timesteps, schedule.beta_end) == (500, 0.05)
        assert spec.trainer.weight_decay == 0.1

    def test_a_domain_is_replaced_whole(self, extended):
        spec = extended("space: {max_grad_norm: {int: [2, 8]}}\n")

        assert spec.searched()["max_grad_norm"].model_dump() == {"int": (2, 8), "log": False}
        assert "learning_rate" in spec.searched()

    def test_a_constant_takes_a_field_out_of_the_search(self, extended):
        spec = extended("space: {max_grad_norm: null}\n")

        assert list(spec.searched()) == ["learning_rate"]
        assert spec.trainer_for({}).max_grad_norm is None

    def test_null_is_a_value(self, extended):
        assert extended("trainer: {ema_decay: null}\n").trainer.ema_decay is None

    def test_another_model_does_not_inherit_fields(self, extended):
        spec = extended("trainer: {model: {name: 'my:net', depth: 3}}\n")

        assert spec.trainer.model.model_extra == {"depth": 3}

    def test_the_same_model_does(self, extended):
        spec = extended("trainer: {model: {num_blocks: 3}}\n")

        assert spec.trainer.model.model_extra == {"width": 32, "num_blocks": 3}

    def test_three_files_in_a_row_each_relative_to_itself(self, write, extended):
        write("extends: base.yaml\nseeds: 3\n", "folder/middle.yaml")
        spec = load_study(write("extends: folder/middle.yaml\ntrials: 4\n", "last.yaml"))

        assert (spec.name, spec.seeds, spec.trials) == ("base", 3, 4)

    def test_a_circle_of_two_is_found(self, write):
        write("extends: b.yaml\n", "a.yaml")
        write("extends: a.yaml\n", "b.yaml")

        assert complaint("a.yaml") == (
            "b.yaml: extends: a.yaml — the files extend each other in a circle: "
            "a.yaml -> b.yaml -> a.yaml. Remove one of these lines."
        )

    def test_the_file_that_holds_the_mistake_is_named(self, write):
        write(self.BASE.replace("weight_decay: 0.1", "weight_decay: -1"), "base.yaml")
        write("extends: base.yaml\nseeds: 0\n", "child.yaml")

        files = [line.split(": ")[0] for line in complaint("child.yaml").splitlines()]
        assert sorted(files) == ["base.yaml", "child.yaml"]


def test_overrides_win_and_are_named_in_errors(write):
    path = write(MINIMAL + "trials: 8\n")

    spec = load_study(path, {"trials": 4, "storage": "/elsewhere", "resources.workers": 2})

    assert (spec.trials, spec.storage, spec.resources.workers) == (4, "/elsewhere", 2)
    with pytest.raises(SpecError, match=r"^--workers: resources.workers: 0 — must be at least 1"):
        load_study(path, {"resources.workers": 0})


def test_an_override_does_not_hide_a_broken_section(write):
    path = write(MINIMAL + "resources: 3\n")

    with pytest.raises(SpecError, match=r"x.yaml: resources: 3 — must be a section"):
        load_study(path, {"resources.workers": 2})


@pytest.mark.parametrize("study", [5, None, ["x.yaml"]])
def test_run_says_what_a_study_may_be(study):
    with pytest.raises(SpecError, match=r"^study: .* — must be a mapping of fields, a StudySpec"):
        stabsearch.run(study)


def test_parse_study_takes_a_mapping():
    spec = parse_study(yaml.safe_load(MINIMAL.replace("1e-4", "0.0001").replace("1e-1", "0.1")))

    assert spec.name == "test"
    with pytest.raises(SpecError, match=r"^request: trials: 0 — "):
        parse_study({**spec.model_dump(), "trials": 0}, "request")


@pytest.mark.parametrize("path", SEARCH_SPACES, ids=lambda path: path.stem)
def test_dumped_study_loads_back_equal(write, path):
    spec = load_study(path)

    again = load_study(write(dump_study(spec)))

    assert again == spec
    assert again.fingerprint() == spec.fingerprint()


def test_dump_quotes_text_that_would_be_read_as_a_number(write):
    spec = parse_study(
        {
            "name": "1e5",
            "space": {"model.kind": {"choice": ["1e-4", 1e-4, "null", None, "true", True, "7"]}},
            "trainer": {"model": {"name": "my:net"}},
        }
    )

    again = load_study(write(dump_study(spec)))

    assert again == spec
    assert list(map(type, again.searched()["model.kind"].probes())) == list(
        map(type, spec.searched()["model.kind"].probes())
    )


def test_starter_file_is_valid_under_the_name_asked_for(write):
    spec = load_study(write(starter_file("edge_of_mine")))

    assert spec.name == "edge_of_mine"
    assert set(spec.searched()) == {"learning_rate", "max_grad_norm"}


@pytest.mark.parametrize(
    "name", ["2024", "null", "1e5", "1.5", "true", "yes", "off", "0x1F", "1_000", "2024-01-01"]
)
def test_starter_file_quotes_a_name_that_yaml_reads_as_something_else(write, name):
    spec = load_study(write(starter_file(name)))

    assert spec.name == name
    assert f"results/{name}\n" in starter_file(name)


def test_an_anchor_may_be_used_beside_what_it_names(write):
    path = write(
        "name: test\nspace:\n  learning_rate: &lr {log_uniform: [1e-4, 1e-1]}\n"
        "  weight_decay: *lr\n"
    )

    assert list(load_study(path).searched()) == ["learning_rate", "weight_decay"]


def test_a_path_that_no_file_can_have_is_said():
    assert complaint("a\0.yaml") == '"a\\u0000.yaml": cannot be read: embedded null byte.'


def test_what_the_starter_file_comments_out_is_valid_too(write):
    text = starter_file()
    for line in ("# lr_schedule:", "# model.width:", "# horizon_steps:"):
        assert line in text
        text = text.replace(line, line[2:])
    spec = load_study(write(text))

    assert len(spec.searched()) == 4
    assert spec.horizon_steps == 100_000


def test_the_starter_file_searches_for_the_edge_and_confirms(write):
    spec = load_study(write(starter_file()))

    assert spec.searcher.name == "boundary"
    assert spec.stop_when == StopSpec(edge_within_octaves=0.5)
    assert spec.confirm == ConfirmSpec(seeds=5, stress_octaves=1)


def test_the_starter_file_s_other_searcher_takes_the_place_of_the_first(write):
    text = starter_file()
    assert text.count("\nsearcher:") == text.count("\n# searcher:") == 1
    text = text.replace("\nsearcher:", "\n# was:").replace("\n# searcher:", "\nsearcher:")

    assert load_study(write(text)).searcher.name == "tpe"


class TestSchema:
    @pytest.fixture
    def validator(self):
        schema = json_schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        return jsonschema.Draft202012Validator(schema)

    @pytest.mark.parametrize("path", SEARCH_SPACES, ids=lambda path: path.stem)
    def test_accepts_our_search_spaces(self, validator, path):
        fields = yaml.safe_load(dump_study(load_study(path)))

        validator.validate(fields)
        validator.validate({"extends": "other.yaml"})

    @pytest.mark.parametrize(
        "change",
        [
            {"trials": 0},
            {"spaces": {}},
            {"trainer": {"learning_rte": 1}},
            {"trainer": {"optimizer": "adamm"}},
            {"space": {"learning_rte": {"uniform": [0, 1]}}},
            {"space": {"learning_rate": {"unifrm": [0, 1]}}},
            {"space": {"eval_samples": {"int": [100, 200]}}},
            {"space": {"data.size": {"choice": [8, 16]}}},
        ],
        ids=str,
    )
    def test_refuses_what_an_editor_should_underline(self, validator, change):
        fields = yaml.safe_load(dump_study(load_study(SEARCH_SPACES[0])))

        assert not validator.is_valid(fields | change)

    def test_offers_names_and_descriptions_in_the_space(self):
        entries = json_schema()["properties"]["space"]["properties"]

        assert {"learning_rate", "noise_schedule.beta_schedule", "model.width"} <= set(entries)
        assert all(entry["description"] for entry in entries.values())
