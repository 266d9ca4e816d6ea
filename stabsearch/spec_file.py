"""Study files: YAML in, ``StudySpec`` out, and back.

A file may start with ``extends: other.yaml`` (a path relative to itself, and that file may extend
a third). What it says is then laid over what the other says:

* sections are merged field by field;
* any other value replaces the other file's, a list or ``null`` too: ``max_grad_norm: null`` means
  no clipping, it does not mean "as if never written";
* an entry of ``space`` is replaced whole; a constant takes a field out of the search;
* ``model`` and ``data`` are replaced whole when they change ``name``, because the fields of one
  model mean nothing to another.

Every error is one ``SpecError``, one line for each thing to mend.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stabsearch.errors import SpecError
from stabsearch.problems import problems_of, show
from stabsearch.spec import IntRange, StudySpec, may_be_searched, param_names

Origins = dict[tuple[str, ...], Path]
"""Which file said what: path of a value -> file."""


def load_study(path: str | Path, overrides: Mapping[str, Any] | None = None) -> StudySpec:
    """Read a study file. ``overrides`` (dotted field -> value) win over what it says.

    Raises SpecError naming file, field, value, rule and remedy of everything that is wrong.
    """
    file = Path(path)
    origins: Origins = {}
    fields = _read(file, origins, ())
    for name, value in (overrides or {}).items():
        *sections, field = name.split(".")
        place = fields
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                break  # validation will say so
        else:
            place[field] = value
            origins[(*sections, field)] = Path(f"--{field}")
    return _validated(fields, str(file), origins)


def parse_study(fields: Mapping[str, Any], source: str = "study") -> StudySpec:
    """The same from a mapping: a REST body, a dict in a notebook."""
    if not isinstance(fields, Mapping):
        raise SpecError(
            f"{source}: {show(fields)} — must be a mapping of fields, a StudySpec or a file's "
            "path. Write for example {'name': 'my_study', 'space': {...}}."
        )
    return _validated(dict(fields), source, {})


def parse_value(text: str) -> Any:
    """One value as a study file would say it: ``1e-4``, ``true``, ``[1, 2]``, text.

    Raises SpecError for what is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise SpecError(f"{show(text)}{_yaml_complaint(error)}") from error


def dump_study(spec: StudySpec) -> str:
    """The resolved study as YAML: every field, ``extends`` gone. Loads back to an equal spec."""
    fields = spec.model_dump()
    fields["space"] = {
        name: _Flow(_domain_fields(entry)) if name in spec.searched() else entry
        for name, entry in spec.space.items()
    }
    order = ("name", "trials", "seeds", "storage")
    fields = {name: fields[name] for name in (*order, *(f for f in fields if f not in order))}
    return yaml.dump(
        fields, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )


def json_schema() -> dict[str, Any]:
    """JSON schema of a study file, for editors: knows ``extends`` and the names in ``space``."""
    schema = StudySpec.model_json_schema()
    fields = schema["properties"]
    fields["extends"] = {
        "type": "string",
        "description": "Another study file, relative to this one, which this one changes.",
    }
    schema["$defs"]["SpaceEntry"] = fields["space"]["additionalProperties"]
    schema["$defs"]["Constant"] = {"type": ["number", "string", "boolean", "null"]}
    entry, constant = {"$ref": "#/$defs/SpaceEntry"}, {"$ref": "#/$defs/Constant"}
    fields["space"] |= {
        "properties": {
            name: (entry if may_be_searched(name) else constant) | {"description": text}
            for name, text in param_names().items()
        },
        "patternProperties": {r"^model\..+$": entry, r"^data\..+$": constant},
        "additionalProperties": False,
    }
    del schema["required"]
    schema["anyOf"] = [{"required": ["name", "space"]}, {"required": ["extends"]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def starter_file(name: str = "my_study") -> str:
    """What ``stabsearch init`` writes: a study that runs as it is, with comments."""
    reads_back = yaml.load(name, Loader=_Loader) == name  # 2024, null and 1e5 do not
    written = name if reads_back else f'"{name}"'
    text = _STARTER.replace("name: my_study", f"name: {written}", 1)
    return text.replace("my_study", name)


def _validated(fields: dict[str, Any], source: str, origins: Origins) -> StudySpec:
    try:
        return StudySpec.model_validate(fields)
    except ValidationError as error:
        problems = problems_of(error, StudySpec)
        lines = [f"{_origin(p.path, source, origins)}: {p}" for p in problems]
        raise SpecError("\n".join(dict.fromkeys(lines))) from error


def _origin(path: tuple[str | int, ...], source: str, origins: Origins) -> str:
    """The file that holds the value: the one that was extended, if it stands there."""
    for length in range(len(path), 0, -1):
        file = origins.get(tuple(str(part) for part in path[:length]))
        if file is not None:
            return str(file)
    return source


def _read(file: Path, origins: Origins, parents: tuple[Path, ...]) -> dict[str, Any]:
    fields = _mapping_in(file)
    if "extends" not in fields:
        _note_origins(fields, file, origins, ())
        return fields
    base_name = fields.pop("extends")
    if not isinstance(base_name, str) or not base_name:
        raise SpecError(
            f"{file}: extends: {base_name} — must be the path of another study file. "
            "Write for example extends: digits_lr_clip.yaml."
        )
    chain = (*parents, file)
    try:
        base_file = file.parent / Path(base_name).expanduser()
        is_there = base_file.exists()
        is_circle = base_file.resolve() in [parent.resolve() for parent in chain]
    except (OSError, RuntimeError, ValueError) as error:  # ~nobody, a loop of links, NUL, too long
        raise SpecError(
            f"{file}: extends: {show(base_name)} — cannot be a study file: {_reason(error)}. "
            "Write the path of one, relative to the file that names it."
        ) from error
    if is_circle:
        circle = " -> ".join(str(step) for step in (*chain, base_file))
        raise SpecError(
            f"{file}: extends: {base_name} — the files extend each other in a circle: {circle}. "
            "Remove one of these lines."
        )
    if not is_there:
        raise SpecError(
            f"{file}: extends: {base_name} — there is no file {base_file}. "
            "The path is relative to the file that names it."
        )
    base = _read(base_file, origins, chain)
    return _laid_over(base, fields, file, origins, ())


def _laid_over(
    base: dict[str, Any],
    fields: dict[str, Any],
    file: Path,
    origins: Origins,
    path: tuple[str, ...],
) -> dict[str, Any]:
    merged = dict(base)
    for name, value in fields.items():
        here = (*path, str(name))
        old = base.get(name)
        if (
            isinstance(old, dict)
            and isinstance(value, dict)
            and path != ("space",)
            and not _is_another(here, old, value)
        ):
            merged[name] = _laid_over(old, value, file, origins, here)
        else:
            merged[name] = value
            _note_origins(value, file, origins, here)
    return merged


def _is_another(path: tuple[str, ...], old: Any, new: Any) -> bool:
    """Whether a model, data or sampler section names another one than the base."""
    is_named = path in (("trainer", "model"), ("trainer", "data"), ("sampler",))
    return is_named and "name" in new and new["name"] != old.get("name")


def _note_origins(value: Any, file: Path, origins: Origins, path: tuple[str, ...]) -> None:
    for known in [known for known in origins if known[: len(path)] == path]:
        del origins[known]
    if path:
        origins[path] = file
    if isinstance(value, dict):
        for name, inner in value.items():
            _note_origins(inner, file, origins, (*path, str(name)))


def _mapping_in(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpecError(f"{file}: there is no such file. {_other_files(file)}") from error
    except IsADirectoryError as error:
        raise SpecError(f"{file}: is a folder. Name a study file in it.") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{file}: is not text. Write the study as YAML in UTF-8.") from error
    except (OSError, ValueError) as error:
        raise SpecError(f"{show(str(file))}: cannot be read: {_reason(error)}.") from error
    try:
        fields = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise SpecError(f"{file}{_yaml_complaint(error)}") from error
    except (RecursionError, ValueError) as error:
        raise SpecError(f"{file}: is not YAML: {error}.") from error
    if fields is None:
        raise SpecError(f"{file}: is empty. `stabsearch init` writes a file to start from.")
    if not isinstance(fields, dict):
        raise SpecError(
            f"{file}: must hold fields, each 'name: value', but is a "
            f"{'list' if isinstance(fields, list) else 'single value'}. "
            "`stabsearch init` writes a file to start from."
        )
    return fields


def _reason(error: Exception) -> str:
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return told.rstrip(".")


def _other_files(file: Path) -> str:
    try:
        others = sorted(
            p.name
            for p in file.parent.iterdir()
            if p.suffix in (".yaml", ".yml") and not p.name.startswith(".")
        )
    except OSError:
        others = []
    if not others:
        return "Check the path; `stabsearch init` writes a file to start from."
    shown = ", ".join(others[:8]) + (", ..." if len(others) > 8 else "")
    return f"Study files in {file.parent}: {shown}."


def _yaml_complaint(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError):
        return f": is not YAML: {' '.join(str(error).split())}"
    mark = error.problem_mark or error.context_mark
    line = f":{mark.line + 1}" if mark else ""
    if isinstance(error, _Refused):
        return f"{line}: {error.problem}"
    if tag := _UNREAD_TAG.search(error.problem or ""):
        return (
            f"{line}: {tag[1].replace(_YAML_TAGS, '!!')} is a tag that no study file may hold: "
            "only plain values are read. Remove it."
        )
    what = ", ".join(part for part in (error.context, error.problem) if part)
    return f"{line}: is not YAML: {what}. Check the indentation, colons and brackets there."


class _Refused(yaml.MarkedYAMLError):
    """YAML, but no study: ``problem`` says all."""


_YAML_TAGS = "tag:yaml.org,2002:"
_UNREAD_TAG = re.compile(r"could not determine a constructor for the tag '(.*)'")

_YAML_1_2_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+")
"""Exponents without a dot or sign, ``1e-4`` and ``3E2``: YAML 1.2 numbers that PyYAML, which
reads YAML 1.1, takes for text."""
_FLOAT_TAG = f"{_YAML_TAGS}float"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's floats, without duplicate keys and without loops."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias: Any = self.peek_event()  # type: ignore[no-untyped-call]
            named = self.anchors.get(alias.anchor)
            if named is not None and named.end_mark is None:  # still being read
                problem = f"*{alias.anchor}: stands inside of what it names. Write it out."
                raise _Refused(problem=problem, problem_mark=alias.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first_lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.value in first_lines:
                problem = (
                    f"{key.value}: is there twice, first on line {first_lines[key.value]}. "
                    "Remove one of them."
                )
                raise _Refused(problem=problem, problem_mark=key.start_mark)
            first_lines[key.value] = line
        return super().construct_mapping(node, deep=deep)


class _Flow(dict[str, Any]):
    """A mapping that is written in braces on one line."""


class _Dumper(yaml.SafeDumper):
    """Writes what the loader reads: text that looks like ``1e-4`` is quoted."""


_Loader.add_implicit_resolver(_FLOAT_TAG, _YAML_1_2_FLOAT, list("-+.0123456789"))
_Dumper.add_implicit_resolver(_FLOAT_TAG, _YAML_1_2_FLOAT, list("-+.0123456789"))


def _represent_flow(dumper: yaml.SafeDumper, value: _Flow) -> yaml.Node:
    return dumper.represent_mapping("tag:yaml.org,2002:map", value, flow_style=True)


def _represent_tuple(dumper: yaml.SafeDumper, value: tuple[Any, ...]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


_Dumper.add_representer(_Flow, _represent_flow)
_Dumper.add_representer(tuple, _represent_tuple)


def _domain_fields(domain: Any) -> dict[str, Any]:
    fields: dict[str, Any] = domain.model_dump()
    if isinstance(domain, IntRange) and not domain.log:
        del fields["log"]
    return fields


_STARTER = """\
# A stabsearch study: what to search, what to train, how much to spend.
#   stabsearch validate FILE         checks this file
#   stabsearch run FILE --dry-run    shows what it resolves to, and three settings
#   stabsearch run FILE              searches; the same command resumes an interrupted search
# Every field, with its meaning: stabsearch schema

name: my_study  # also the name of the results folder
storage: results          # the study's folder is results/my_study
trials: 32                # settings to try, at most; short trials count
seeds: 1                  # trials per setting, each with its own seed

# What is searched: fields of the trainer, nested ones with a dot; not those that say how a score
# is measured (data, eval_samples, ...). Domains:
#   {log_uniform: [1e-4, 0.1]}    every octave equally likely; for rates and thresholds
#   {uniform: [0, 0.1]}           every value equally likely
#   {int: [1, 8]}                 whole numbers, both ends included; {int: [16, 512], log: true}
#   {choice: [linear, cosine]}    one of a list
#   a plain value                 a constant: overrides the trainer's
space:
  learning_rate: {log_uniform: [1e-4, 3e-1]}
  max_grad_norm: {log_uniform: [0.01, 100]}
  # lr_schedule: {choice: [constant, cosine]}
  # model.width: {choice: [32, 64, 128]}

# What every trial has in common.
trainer:
  # Built in: mlp, unet, dit. A model of your own is a reference, my_models:unet, called as
  # unet(sample_shape, **fields).
  model: {name: mlp, width: 64, num_blocks: 2}
  # Built in: digits, image_folder, array, parquet, torchvision, huggingface, mixture, gaussian.
  # Data of your own is a reference, my_data:load, called as load(**fields) -> array [N, ...].
  data: {name: digits}
  noise_schedule: {beta_schedule: linear, num_train_timesteps: 1000}
  prediction_type: epsilon      # epsilon, sample, v_prediction or flow
  loss_weighting: none          # none, snr, min_snr, soft_min_snr, p2 or edm
  clipping: global_norm         # per_parameter_norm, per_parameter_value, agc, autoclip, none
  optimizer: adamw              # adamw, adam, sgd, or a class of torch.optim such as RMSprop
  lr_schedule: constant         # constant, cosine or linear
  lr_warmup_fraction: 0.05      # of max_train_steps
  batch_size: 64
  max_train_steps: 2000         # budget of one trial
  report_every: 25              # steps between verdicts
  eval_every: 100               # steps between scores; a multiple of report_every

# How it searches. boundary: short trials find the edge of stability and the best learning rate
# below it, and few settings are trained to their end. tpe: Optuna trains every setting to its end,
# unless it becomes unstable; it fills the whole map, at about ten times the
# steps of the search itself.
searcher: {name: boundary, seed: 0}
# searcher: {name: tpe, startup_trials: 10, seed: 0}    # also: gp, random, grid

# The search ends when the edge is known so well (half of its 90% interval), or when all trials are
# spent. Without this line boundary goes on to other clips and parameters.
stop_when: edge within 0.5 octave

# Then the recommended setting is trained on 5 seeds, and on 5 at twice its learning rate (one
# octave). If it does not hold, the next one is tried.
confirm: {seeds: 5, stress_octaves: 1}
# horizon_steps: 100000    # length of the real training, if the answer is to speak of it

scheduler: {gate: true, inner: none}    # inner: asha also stops stable trials that are behind
resources: {cpus: 1, gpus: 0}           # per trial; fractions share a device
"""
