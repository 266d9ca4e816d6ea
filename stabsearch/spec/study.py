"""A whole study, and the rules between its space and its trainer."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from stabsearch.errors import SpecError
from stabsearch.problems import (
    JOINT_RULE,
    NOTHING,
    Problem,
    did_you_mean,
    leaf_fields,
    problems_of,
    raise_problems,
    show,
)
from stabsearch.records import Params, ParamValue
from stabsearch.spec.analyzer import AnalyzerSpec
from stabsearch.spec.built_ins import BUILT_IN_DATA, BUILT_IN_MODELS
from stabsearch.spec.cautions import trainer_cautions
from stabsearch.spec.domains import (
    Choice,
    Domain,
    IntRange,
    LogUniform,
    Uniform,
    parse_domain,
)
from stabsearch.spec.parts import (
    NOT_TEXT,
    NonNegativeFloat,
    Part,
    PositiveFloat,
    PositiveInt,
)
from stabsearch.spec.sampler import BUILT_IN_SAMPLERS, SamplerSpec, sampler_problems
from stabsearch.spec.search import ConfirmSpec, SchedulerSpec, SearcherSpec, StopSpec
from stabsearch.spec.trainer import BETA_RANGE_SCHEDULES, MAX_GRAD_NORM_CLIPPINGS, TrainerSpec


class ResourcesSpec(Part):
    cpus: NonNegativeFloat = Field(1.0, description="CPU cores per trial; fractions allowed.")
    gpus: NonNegativeFloat = Field(
        0.0, description="GPUs per trial; a fraction shares one GPU between trials."
    )
    workers: PositiveInt | None = Field(
        None, description="Trials at the same time; null: as many as cpus and gpus allow."
    )
    max_failures: Annotated[int, Field(ge=0), NOT_TEXT] = Field(
        2, description="Times a trial is started again after its worker was lost."
    )

    @model_validator(mode="after")
    def _can_be_given(self) -> Self:
        if self.gpus > 1 and not self.gpus.is_integer():
            rule, remedy = "above 1 must be a whole number", f"Use {math.ceil(self.gpus)}."
            raise_problems(
                [Problem(path=("gpus",), value=self.gpus, rule=rule, remedy=remedy)], JOINT_RULE
            )
        if self.cpus == 0 and self.gpus == 0 and self.workers is None:
            problem = Problem(
                path=("cpus",),
                value=self.cpus,
                rule="a trial that needs neither CPU nor GPU has no limit of workers",
                remedy="Ask for cpus: 1, or set resources.workers.",
            )
            raise_problems([problem], JOINT_RULE)
        return self


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def is_study_name(name: str) -> bool:
    """Whether a study may be called so: the name is also that of its folder."""
    return _NAME.fullmatch(name) is not None


SpaceEntry = Annotated[Domain | ParamValue, BeforeValidator(parse_domain)]


class StudySpec(Part):
    """One search: a space, a budget, a results folder."""

    name: str = Field(
        description="Name of the study and of its results folder: letters, digits, . _ and -."
    )
    space: dict[str, SpaceEntry] = Field(
        description="Trainer field (dotted below a section) -> the values to try: log_uniform, "
        "uniform, int, choice, or a constant, which overrides the trainer's."
    )
    trainer: TrainerSpec = Field(TrainerSpec(), description="What every trial has in common.")
    searcher: SearcherSpec = Field(SearcherSpec(), description="Who proposes settings.")
    scheduler: SchedulerSpec = Field(SchedulerSpec(), description="Who stops trials early.")
    analyzer: AnalyzerSpec = Field(
        AnalyzerSpec(), description="Who judges the trials' reports, and by which thresholds."
    )
    resources: ResourcesSpec = Field(
        ResourcesSpec(), description="What one trial needs, and how many run at once."
    )
    sampler: SamplerSpec | None = Field(
        None,
        description="The sampler that will draw from the trained model: checked once, before the "
        "first trial, on a model that is known exactly (docs/samplers.md). null: no check.",
    )
    stop_when: StopSpec | None = Field(
        None,
        description="End the search as soon as this much is known: edge within 0.25 octave. "
        "null: when all trials are done.",
    )
    confirm: ConfirmSpec | None = Field(
        None,
        description="Train the recommended setting again, under more seeds and at a higher "
        "learning rate, and move on to another if it does not hold. null: no confirmation.",
    )
    horizon_steps: PositiveInt | None = Field(
        None,
        description="Steps of the training that the answer is for, if it is longer than a trial: "
        "the answer then says what the trials allow to be said about it.",
    )
    margin_octaves: PositiveFloat = Field(
        1.0,
        description="How far around a setting its worst score counts, and how far above it few "
        "runs may fail, in octaves of the learning rate.",
    )
    seeds: PositiveInt = Field(1, description="Replicates: trials per setting, each its own seed.")
    trials: PositiveInt = Field(32, description="Settings to try.")
    storage: str = Field(
        "results",
        min_length=1,
        description="Folder that holds the study's folder; relative to the current directory.",
    )

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str) -> str:
        if not is_study_name(name):
            suggestion = re.sub(r"[^A-Za-z0-9._-]+", "_", name.strip()).lstrip(".-")[:100]
            rule = (
                "must be usable as a folder name: letters, digits, . _ - (at most 100, the first "
                "not . or -)"
            )
            remedy = f"Use {suggestion or 'my_study'}."
            raise_problems([Problem(path=(), value=name, rule=rule, remedy=remedy)])
        return name

    @field_validator("storage")
    @classmethod
    def _storage_is_a_path(cls, storage: str) -> str:
        if "://" in storage:
            rule = "must be a folder on this machine or a shared file system"
            remedy = "Write results to a folder, and copy it to the bucket afterwards."
            raise_problems([Problem(path=(), value=storage, rule=rule, remedy=remedy)])
        if "\0" in storage:
            rule, remedy = "no folder's name holds a NUL character", "Remove it."
            raise_problems([Problem(path=(), value=NOTHING, rule=rule, remedy=remedy)])
        try:
            Path(storage).expanduser()
        except RuntimeError:
            rule = "there is no such home folder on this machine"
            remedy = "Use ~/ for your own, or the folder's full path."
            raise_problems([Problem(path=(), value=storage, rule=rule, remedy=remedy)])
        return storage

    @field_validator("space")
    @classmethod
    def _each_entry_is_valid(cls, space: dict[str, Any]) -> dict[str, Any]:
        if not any(isinstance(domain, Domain) for domain in space.values()):
            problem = Problem(
                path=(),
                value=space,
                rule="nothing is searched: at least one entry must be a domain",
                remedy="Add for example learning_rate: {log_uniform: [1e-4, 0.1]}.",
            )
            raise_problems([problem])
        raise_problems(p for name, entry in space.items() for p in _entry_problems(name, entry))
        return space

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        raise_problems(self._together(), JOINT_RULE)
        return self

    def searched(self) -> dict[str, Domain]:
        """The space without its constants."""
        return {name: entry for name, entry in self.space.items() if isinstance(entry, Domain)}

    def constants(self) -> Params:
        """The entries of the space that are values."""
        return {name: entry for name, entry in self.space.items() if not isinstance(entry, Domain)}

    def trainer_for(self, params: Params) -> TrainerSpec:
        """The trainer of one setting: the space's constants, then ``params``, over ``trainer``.

        Raises SpecError if they do not make a valid trainer.
        """
        try:
            return _trainer_with(self.trainer, {**self.constants(), **params})
        except ValidationError as error:
            problems = problems_of(error, TrainerSpec)
            raise SpecError("\n".join(str(p) for p in problems)) from error

    def sample(self, generator: random.Random) -> Params:
        """One setting drawn from the space at random."""
        return {name: domain.sample(generator) for name, domain in self.searched().items()}

    @property
    def path(self) -> Path:
        """The study's results folder, absolute."""
        return Path(self.storage).expanduser().absolute() / self.name

    @property
    def num_trials(self) -> int:
        """Settings x seeds."""
        return self.trials * self.seeds

    @property
    def longest_trial(self) -> int:
        """Steps of a trial that is not stopped; the largest, where the budget is searched."""
        longest: list[Any] = [self.trainer_for({}).max_train_steps]
        if (domain := self.searched().get("max_train_steps")) is not None:
            longest = domain.probes()
        return int(max(longest))

    def cautions(self) -> list[str]:
        """What is allowed and should be known, one sentence or two each."""
        names = [name for name in self.searched() if name.startswith("noise_schedule.")]
        return [
            *(
                f"space.{name}: a score is measured at the noise levels of the trial's own "
                "schedule, so scores under different schedules compare only roughly. For a strict "
                "comparison give each its own study (extends: derives one file from another)."
                for name in names
            ),
            *dict.fromkeys(text for t in self._trainers() for text in trainer_cautions(t)),
        ]

    def _trainers(self) -> Iterator[TrainerSpec]:
        """The study's trainer, and those that differ from it in one searched value."""
        yield self.trainer_for({})
        for name, domain in self.searched().items():
            for value in domain.probes():
                with contextlib.suppress(SpecError):  # joint rules look at other combinations
                    yield self.trainer_for({name: value})

    def peer_kind(self, params: Params) -> str:
        """Same text, same kind: trials whose training losses can be held side by side."""
        trainer = json.loads(self.trainer_for(params).model_dump_json())
        return json.dumps({name: trainer[name] for name in _PEER_FIELDS}, sort_keys=True)

    def step_budget(self) -> int:
        """Steps that all trials take if none is stopped."""
        return self.num_trials * self.longest_trial

    def references(self) -> dict[str, str]:
        """Field path -> ``module:function`` of everything that must be imported."""
        found: dict[str, str] = {}
        trainer = self.trainer_for({})
        for section, name, built_in in (
            ("model", trainer.model.name, BUILT_IN_MODELS),
            ("data", trainer.data.name, BUILT_IN_DATA),
        ):
            field = f"{section}.name"
            domain = self.searched().get(field)
            if domain is None:
                named = {f"{'space' if field in self.space else 'trainer'}.{field}": name}
            else:
                named = {
                    f"space.{field}.choice[{i}]": str(value)
                    for i, value in enumerate(domain.probes())
                }
            found |= {path: value for path, value in named.items() if value not in built_in}
        if self.sampler is not None and self.sampler.name not in BUILT_IN_SAMPLERS:
            found["sampler.name"] = self.sampler.name
        return found

    def fingerprint(self) -> str:
        """sha256 of all that changes a trial's result, or the order of proposals.

        Not where results are stored, nor the resources; not ``trials``, ``seeds``, ``stop_when``,
        ``confirm`` and ``horizon_steps`` either, so that a study can be extended by asking for
        more. Nor the sampler, which no
        trial trains with: a study may name one later.
        """
        resolved = {
            "name": self.name,
            # a list: the order of the space is the order in which a searcher draws
            "space": [[name, d.model_dump(mode="json")] for name, d in self.searched().items()],
            "trainer": self.trainer_for({}).model_dump(mode="json"),
            "searcher": self.searcher.model_dump(mode="json"),
            "scheduler": self.scheduler.model_dump(mode="json"),
            "analyzer": self.analyzer.model_dump(mode="json"),
            "margin_octaves": self.margin_octaves,
        }
        canonical = json.dumps(resolved, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _together(self) -> Iterator[Problem]:
        problems = [p for group in _GROUPS for p in self._group_problems(group)]
        yield from problems
        devices = self._possible("device")
        if "cuda" in devices and self.resources.gpus == 0:
            path = ("space", "device") if "device" in self.space else ("trainer", "device")
            yield Problem(
                path=path,
                value="cuda",
                rule="a trial on cuda needs a share of a GPU, but resources.gpus is 0",
                remedy="Set resources.gpus: 1 (or a fraction), or device: auto.",
            )
        yield from self._needs_a_range()
        if not problems:
            yield from self._idle_entries()
            if self.sampler is not None:
                yield from sampler_problems(self.sampler, self._trainers())

    def _needs_a_range(self) -> Iterator[Problem]:
        """What looks for an edge needs a range of learning rates to look along."""
        if isinstance(self.space.get("learning_rate"), (LogUniform, Uniform)):
            return
        remedy = "Add space.learning_rate: {log_uniform: [1e-5, 1e-1]}"
        rule = "looks along a range of learning rates, and the space holds none"
        if self.searcher.name == "boundary":
            path, instead = ("searcher", "name"), "or use another searcher, such as tpe."
            yield Problem(path=path, value="boundary", rule=rule, remedy=f"{remedy}, {instead}")
        if self.stop_when is not None:
            yield Problem(
                path=("stop_when",), value=NOTHING, rule=rule, remedy=f"{remedy}, or remove it."
            )

    def _group_problems(self, group: str) -> Iterator[Problem]:
        """Try the corners of the entries that rules look at together."""
        entries = {name: e for name, e in self.space.items() if re.fullmatch(group, name)}
        if not entries:
            return
        values = [_probes(entry) for entry in entries.values()]
        told: set[tuple[str, ...]] = set()
        for combination in itertools.islice(itertools.product(*values), 4096):
            params = dict(zip(entries, combination, strict=True))
            try:
                _trainer_with(self.trainer, params)
            except ValidationError as error:
                for p in problems_of(error, TrainerSpec):
                    blamed = _blame(p, params)
                    if blamed not in told:
                        told.add(blamed)
                        yield _in_space(p, blamed, params)

    def _possible(self, field: str) -> list[ParamValue]:
        """The values that a trainer field can take in this study."""
        if field in self.space:
            return _probes(self.space[field])
        value: Any = self.trainer
        for part in field.split("."):
            value = getattr(value, part)
        return [value]

    def _idle_entries(self) -> Iterator[Problem]:
        """Searched entries that no trial of this study would look at."""
        for name, (field, needed) in _ONLY_WITH.items():
            possible = self._possible(field)
            if name in self.searched() and not needed.intersection(possible):
                values = " or ".join(sorted(map(show, needed)))
                yield Problem(
                    path=("space", name),
                    value=NOTHING,
                    rule=f"has no effect with {field} {show(possible[0])}",
                    remedy=f"Remove it, or set {field} to {values}.",
                )


_LEAVES = dict(leaf_fields(TrainerSpec))
_SECTIONS = tuple(name for name in TrainerSpec.model_fields if name not in _LEAVES)
_OPEN_SECTIONS = ("model", "data", "optimizer_options")
"""Sections that take fields of the chosen part's own."""

_GROUPS = (
    r"report_every|eval_every|max_train_steps|lr_warmup_steps",
    r"num_timestep_bins|noise_schedule\.num_train_timesteps",
    r"noise_schedule\.(kind|beta_.*|trained_betas|num_train_timesteps)",
    r"prediction_type|loss_weighting|noise_schedule\.(kind|rescale_betas_zero_snr)",
    r"optimizer|optimizer_options\..*",
    r"model\..*",
    r"data\..*",
)
"""Trainer fields that are checked together, as patterns: one per joint rule."""

_PEER_FIELDS = (
    "model",
    "data",
    "noise_schedule",
    "prediction_type",
    "loss_weighting",
    "timestep_sampling",
    "num_timestep_bins",
)
"""Trainer fields that decide which loss a sound trial has; the others decide how fast."""

_NOT_SEARCHED = {
    r"data(\..+)?": "decides which examples every score is measured on",
    r"eval_samples|num_timestep_bins": "decides how every score is measured",
    r"report_every|eval_every": "decides when a trial is judged, and not how it trains",
    r"grad_norm_every": "decides what a trial measures, and not how it trains",
    r"noise_schedule\.trained_betas": "is a list, and a parameter has one value",
    r"device": "decides where a trial runs, and not how it trains",
}
"""Trainer fields, as patterns, that must have one value in a study, and why: trials that are
measured differently do not compare, and the best score would go to the most lenient measure."""

_ADAM: set[ParamValue] = {"adamw", "adam"}
_TAKES_BETAS = _ADAM | {"Adamax", "NAdam", "RAdam"}
_NORM_CLIPS: set[ParamValue] = set(MAX_GRAD_NORM_CLIPPINGS)
_ONLY_WITH: dict[str, tuple[str, set[ParamValue]]] = {
    "momentum": ("optimizer", {"sgd"}),
    "adam_beta1": ("optimizer", _TAKES_BETAS),
    "adam_beta2": ("optimizer", _TAKES_BETAS),
    "adam_epsilon": ("optimizer", _ADAM),
    "lr_warmup_fraction": ("lr_warmup_steps", {None}),
    "max_grad_norm": ("clipping", _NORM_CLIPS),
    "grad_norm_type": ("clipping", _NORM_CLIPS),
    "max_grad_value": ("clipping", {"per_parameter_value"}),
    "agc_clipping": ("clipping", {"agc"}),
    "autoclip_percentile": ("clipping", {"autoclip"}),
    "huber_delta": ("loss", {"huber"}),
    "loss_clamp": ("loss", {"clamped_mse"}),
    "snr_gamma": ("loss_weighting", {"min_snr", "soft_min_snr"}),
    "p2_k": ("loss_weighting", {"p2"}),
    "p2_gamma": ("loss_weighting", {"p2"}),
    "sigma_data": ("loss_weighting", {"edm"}),
    "log_normal_mean": ("timestep_sampling", {"log_normal"}),
    "log_normal_std": ("timestep_sampling", {"log_normal"}),
    "ema_sigma_rel": ("ema_schedule", {"power"}),
    "noise_schedule.beta_start": ("noise_schedule.beta_schedule", set(BETA_RANGE_SCHEDULES)),
    "noise_schedule.beta_end": ("noise_schedule.beta_schedule", set(BETA_RANGE_SCHEDULES)),
    "noise_schedule.beta_schedule": ("noise_schedule.kind", {"diffusion"}),
    "noise_schedule.rescale_betas_zero_snr": ("noise_schedule.kind", {"diffusion"}),
}
"""Trainer field -> the field that decides whether anyone looks at it, and its values then."""


def may_be_searched(name: str) -> bool:
    """Whether trials that differ in this trainer field can be compared."""
    return not any(re.fullmatch(pattern, name) for pattern in _NOT_SEARCHED)


def param_names() -> dict[str, str]:
    """Every name that a space may hold -> its description; options of built-ins included."""
    names = {name: info.description or "" for name, info in _LEAVES.items()}
    for section, built_in in (("model", BUILT_IN_MODELS), ("data", BUILT_IN_DATA)):
        for options in built_in.values():
            for name, info in options.model_fields.items():
                names[f"{section}.{name}"] = info.description or ""
    return names


def _entry_problems(name: str, entry: Any) -> Iterator[Problem]:
    """One entry by itself: is the name a field, and does the field take the values?"""
    section, dot, option = name.partition(".")
    if isinstance(entry, Domain) and not may_be_searched(name):
        yield _unsearchable(name, entry)
        return
    if name not in _LEAVES and not (dot and option and section in _OPEN_SECTIONS):
        yield _unknown_param(name)
        return
    for value in _ends_first(entry):
        try:
            TrainerSpec.model_validate(_nest({name: value}))
        except ValidationError as error:
            mine = [
                Problem(path=("space", name), value=p.value, rule=p.rule, remedy=p.remedy)
                for p, details in zip(problems_of(error, TrainerSpec), error.errors(), strict=True)
                if details["type"] != JOINT_RULE and name in _LEAVES
            ]
            if mine:
                yield _reworded(mine[0], name, entry, value)
                return


def _reworded(problem: Problem, name: str, entry: Any, value: ParamValue) -> Problem:
    """Say which of the entry's values it is, and what the entry should rather say."""
    is_domain = isinstance(entry, Domain)
    is_fraction = isinstance(value, float) and not value.is_integer()
    remedy = problem.remedy
    rule = problem.rule
    if rule == "must be a whole number" and isinstance(entry, (LogUniform, Uniform)):
        log = ", log: true" if isinstance(entry, LogUniform) else ""
        low, high = math.floor(entry.low), math.ceil(entry.high)
        remedy = f"Use {{int: [{low}, {high}]{log}}}."
    elif is_domain:
        if not (is_fraction and rule.startswith("must be one of")):
            rule = f"{show(value)} {rule}"
        if not isinstance(entry, Choice) and "must be one of" in rule:
            remedy = "Use choice."
        elif "such as" in remedy:
            remedy = f"Keep every value of {name} within that."
    return Problem(path=(name,), value=entry, rule=rule, remedy=remedy)


def _unsearchable(name: str, entry: Any) -> Problem:
    why = next(reason for pattern, reason in _NOT_SEARCHED.items() if re.fullmatch(pattern, name))
    return Problem(
        path=(name,),
        value=entry,
        rule=f"{why}, so it must be the same for all trials of a study",
        remedy=f"Write one value as trainer.{name}; to compare several, run a study for each "
        "(extends: derives one file from another).",
    )


def _unknown_param(name: str) -> Problem:
    known = param_names()
    if name in _SECTIONS:
        fields = [full for full in known if full.startswith(f"{name}.")]
        rule, remedy = "is a section, not a field", f"Name one of its fields: {', '.join(fields)}."
    else:
        rule, remedy = "unknown trainer field", did_you_mean(name, known)
    return Problem(path=(name,), value=NOTHING, rule=rule, remedy=remedy)


def _probes(entry: Any) -> list[ParamValue]:
    return entry.probes() if isinstance(entry, Domain) else [entry]


def _ends_first(entry: Any) -> list[ParamValue]:
    """Of a range the ends, which somebody wrote, before a value in between."""
    values = _probes(entry)
    if isinstance(entry, (LogUniform, Uniform, IntRange)):
        return [values[0], values[-1], *values[1:-1]]
    return values


def _nest(params: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` -> ``{"a": {"b": 1}}``."""
    nested: dict[str, Any] = {}
    for name, value in params.items():
        *sections, field = name.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[field] = value
    return nested


def _trainer_with(trainer: TrainerSpec, params: Mapping[str, Any]) -> TrainerSpec:
    fields = trainer.model_dump()
    for name, value in _nest(params).items():
        if isinstance(value, dict) and isinstance(fields.get(name), dict):
            fields[name] |= value
        else:
            fields[name] = value
    return TrainerSpec.model_validate(fields)


def _blame(problem: Problem, params: Mapping[str, Any]) -> tuple[str, ...]:
    """The entry of the space that a joint rule is about."""
    own = ".".join(str(part) for part in problem.path)
    involved: Iterable[str] = (own, *problem.partners)
    return tuple(name for name in involved if name in params) or tuple(params)[:1]


def _in_space(problem: Problem, blamed: tuple[str, ...], params: Mapping[str, Any]) -> Problem:
    name = blamed[0]
    own = ".".join(str(part) for part in problem.path)
    rule = problem.rule if own == name else f"{own} ({show(problem.value)}) {problem.rule}"
    value = NOTHING if problem.value is NOTHING else params[name]
    return Problem(path=("space", name), value=value, rule=rule, remedy=problem.remedy)
