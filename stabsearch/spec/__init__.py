"""What a study file may say. The only place where a user's input is validated.

A study is data: the same ``StudySpec`` comes from YAML, from a dict or from Python.
``spec_file`` reads files and turns what pydantic found into one ``SpecError``.

    parts     the base of every section, kinds of numbers
    built_ins fields of the built-in models and data
    trainer   one training run
    domains   what a parameter may be searched over
    sampler   the sampler that is checked beside the training
    search    who proposes, who stops trials, when the search ends, what is confirmed
    study     a whole study
"""

from stabsearch.spec.built_ins import BUILT_IN_DATA, BUILT_IN_MODELS
from stabsearch.spec.domains import (
    DOMAINS,
    Choice,
    Domain,
    IntRange,
    LogUniform,
    Uniform,
)
from stabsearch.spec.sampler import BUILT_IN_SAMPLERS, SamplerSpec
from stabsearch.spec.search import ConfirmSpec, SchedulerSpec, SearcherSpec, StopSpec
from stabsearch.spec.study import (
    ResourcesSpec,
    SpaceEntry,
    StudySpec,
    is_study_name,
    may_be_searched,
    param_names,
)
from stabsearch.spec.trainer import (
    MAX_GRAD_NORM_CLIPPINGS,
    TORCH_OPTIMIZERS,
    DataSpec,
    ModelSpec,
    NoiseScheduleSpec,
    TrainerSpec,
)

__all__ = [
    "BUILT_IN_DATA",
    "BUILT_IN_MODELS",
    "BUILT_IN_SAMPLERS",
    "DOMAINS",
    "MAX_GRAD_NORM_CLIPPINGS",
    "TORCH_OPTIMIZERS",
    "Choice",
    "ConfirmSpec",
    "DataSpec",
    "Domain",
    "IntRange",
    "LogUniform",
    "ModelSpec",
    "NoiseScheduleSpec",
    "ResourcesSpec",
    "SamplerSpec",
    "SchedulerSpec",
    "SearcherSpec",
    "SpaceEntry",
    "StopSpec",
    "StudySpec",
    "TrainerSpec",
    "Uniform",
    "is_study_name",
    "may_be_searched",
    "param_names",
]
