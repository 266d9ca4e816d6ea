"""Whether a study's model can be built for its data, and called as training calls it.

Tried in the driver before there is a folder or a Ray: a mistake in a model is one message then,
and not a traceback from every worker.
"""

# B = batch (here 2), ... = the shape of an example

from __future__ import annotations

import inspect
import itertools
import random
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stabsearch.diffusion.models import MODELS
from stabsearch.diffusion.prepared_data import PreparedData
from stabsearch.errors import SpecError, exception_text
from stabsearch.problems import did_you_mean, show
from stabsearch.records import Params, ParamValue
from stabsearch.references import resolve
from stabsearch.spec import StudySpec, TrainerSpec
from stabsearch.spec.domains import Choice, Domain
from stabsearch.training.trainer import AUTOCAST_DTYPES, build_model

MAX_MODELS = 8
MAX_SECONDS = 5.0
"""No further model is built once so much time is gone: the first one has told the most."""
MAX_COMBINATIONS = 256
"""Looked through for such as the study's joint rules allow."""

_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
_DEVICE = re.compile(r"cuda|cpu|gpu|nvidia|triton|not implemented for", re.IGNORECASE)

_NOT_THE_USERS = (Path(__file__).parents[1], Path(torch.__file__).parent)


def check_study_model(spec: StudySpec, data: PreparedData) -> None:
    """Build the study's model and call it on two examples, for the searched values of its fields.

    Raises SpecError if that does not work. What only a worker can find out is left to the trials:
    a model that is too large for the driver, or one that needs a GPU in a study which has some.
    """
    examples = data.dataset.train[[0, -1]]
    began = time.monotonic()
    for params, trainer in itertools.islice(searched_models(spec), MAX_MODELS):
        asked = _AskedModel(trainer, params, tuple(spec.space))
        try:
            with _own_random_numbers():
                asked.check(examples)
        except SpecError as error:
            if not _is_for_the_trials(error.__cause__, has_gpu=spec.resources.gpus > 0):
                raise
        if time.monotonic() - began > MAX_SECONDS:
            return


def searched_models(spec: StudySpec) -> Iterator[tuple[Params, TrainerSpec]]:
    """The searched values of the model's fields, and the trainer of each combination.

    All values of a choice, the ends of a range: the first ones, then what differs from those in
    one field, in two, and so on.
    """
    values = {
        name: _values(domain)
        for name, domain in spec.searched().items()
        if name.startswith("model.")
    }
    for params in itertools.islice(_fewest_changes_first(values), MAX_COMBINATIONS):
        try:
            yield params, spec.trainer_for(params)
        except SpecError:  # a joint rule forbids it, and no trial will have it
            continue


def _values(domain: Domain) -> list[ParamValue]:
    probes = domain.probes()
    return probes if isinstance(domain, Choice) else [probes[0], probes[-1]]


def _fewest_changes_first(values: Mapping[str, Sequence[ParamValue]]) -> Iterator[Params]:
    first = {name: of_name[0] for name, of_name in values.items()}
    for num_changes in range(len(values) + 1):
        for names in itertools.combinations(values, num_changes):
            for changed in itertools.product(*(values[name][1:] for name in names)):
                yield first | dict(zip(names, changed, strict=True))


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Whatever the model draws, nobody else's random numbers change."""
    python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)


def _is_for_the_trials(error: BaseException | None, *, has_gpu: bool) -> bool:
    """Whether a worker, with its own memory and its GPU, may do what the driver could not."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, RuntimeError) and _MEMORY.search(str(error)):
        return True
    return has_gpu and (isinstance(error, ImportError) or _DEVICE.search(str(error)) is not None)


@dataclass(frozen=True, slots=True)
class _AskedModel:
    """The model of one combination of searched values, as the study asks for it."""

    trainer: TrainerSpec
    params: Params
    """The searched fields of the model."""
    space: tuple[str, ...]
    """All names in the study's space: where a field is written that is to be corrected."""

    def check(self, examples: np.ndarray[Any, Any]) -> None:
        """Raises SpecError; its cause is what the model raised, where only that is known."""
        model = self._built(examples.shape[1:])
        if not isinstance(model, nn.Module):
            raise self._problem(
                f"returned a value of type {type(model).__name__}, and a model is a "
                "torch.nn.Module",
                "Name a class of one, or a function that returns one.",
            )
        if not any(p.requires_grad for p in model.parameters()):
            raise self._problem(
                "has no parameter to train",
                "Keep its layers as attributes (several in an nn.ModuleList), and leave their "
                "requires_grad on.",
            )
        x_t = torch.tensor(examples)  # a copy: a model may work in place
        prediction = self._called(model, x_t)
        if not isinstance(prediction, Tensor):
            raise self._problem(
                f"forward returned a value of type {type(prediction).__name__}, and a denoiser "
                f"returns a tensor of the shape of its input, {list(x_t.shape)}",
                "Return the prediction by itself.",
            )
        if prediction.shape != x_t.shape:
            raise self._problem(
                f"forward returned shape {list(prediction.shape)} for x_t of shape "
                f"{list(x_t.shape)}, and a denoiser returns the shape of its input",
                "Mend its last layer, or return prediction.view_as(x_t).",
            )
        if torch.isfinite(x_t).all() and not torch.isfinite(prediction).all():
            raise self._problem(
                "forward returned NaN or Inf before any training, for examples that are finite",
                "Look for a division by zero, a logarithm or a root in it, or for weights that "
                "are not initialised.",
            )

    def _built(self, sample_shape: tuple[int, ...]) -> Any:
        try:
            return build_model(self.trainer, sample_shape)
        except SpecError:  # there is no such function
            raise
        except (Exception, SystemExit) as error:  # a user's code may exit
            if self._name in MODELS and isinstance(error, ValueError):
                raise self._built_in_problem(str(error)) from error
            if (mistake := self._mistaken_call(sample_shape)) is not None:
                raise mistake from None
            raise self._problem(
                f"{self._call(sample_shape)} raised {exception_text(error)}{_where(error)}",
                "Mend it, or correct the fields of model.",
            ) from error

    def _called(self, model: nn.Module, x_t: Tensor) -> Any:
        """As the trainer calls it, at the first and the last timestep."""
        last = self.trainer.noise_schedule.num_train_timesteps - 1
        timesteps = torch.tensor([0, last])
        dtype = AUTOCAST_DTYPES[self.trainer.precision]
        try:
            model = model.to("cpu").train()
            with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                return model(x_t, timesteps)
        except (Exception, SystemExit) as error:
            parameters = _parameters(model.forward)
            if isinstance(error, TypeError) and not _takes_two(parameters):
                raise self._problem(
                    f"forward({', '.join(parameters or ())}) is called as forward(x_t, timesteps)",
                    "Let it take x_t[B, ...] and timesteps[B], and nothing else that has no "
                    "default.",
                ) from None
            raise self._problem(
                f"forward(x_t, timesteps) raised {exception_text(error)}{_where(error)}, with x_t "
                f"of shape {list(x_t.shape)} and timesteps [0, {last}]",
                "Mend it, or correct the fields of model.",
            ) from error

    def _mistaken_call(self, sample_shape: tuple[int, ...]) -> SpecError | None:
        """What a call's form shows: a field that is unknown or missing, or no place for the shape.

        None if the form is right, or is not known.
        """
        parameters = _parameters(_callable_of(self._name))
        if parameters is None:
            return None
        shape, fields, takes_more = _shape_and_fields(parameters)
        if shape is None:
            return self._problem(
                f"takes no sample_shape, and is called as {self._call(sample_shape)}",
                "Let its first parameter take the shape of an example.",
            )
        for option in self._options:
            if option not in fields and option != shape and not takes_more:
                return SpecError(
                    f"{self._place(option)}: unknown field of {self._name}. "
                    f"{did_you_mean(option, fields)}"
                )
        for name, parameter in fields.items():
            if parameter.default is parameter.empty and name not in self._options:
                return self._problem(
                    f"needs a field {name}", f"Add {name}: ... to model, or give it a default."
                )
        return None

    def _built_in_problem(self, message: str) -> SpecError:
        """A built-in's message names the field first, then its value, the rule and the remedy."""
        text = f"{message.rstrip('.')}{self._tried()}."
        field, _, rest = text.partition(" ")
        section, _, option = field.rstrip(":").partition(".")
        if section == "model" and option:
            return SpecError(f"{self._place(option)}: {rest}")
        return SpecError(f"trainer.model: {text}")

    def _problem(self, rule: str, remedy: str) -> SpecError:
        return SpecError(f"trainer.model: {self._name} — {rule}{self._tried()}. {remedy}")

    def _tried(self) -> str:
        """With which of the searched values it happens."""
        return f" (with {show(self.params)})" if self.params else ""

    def _place(self, option: str) -> str:
        name = f"model.{option}"
        return f"space.{name}" if name in self.space else f"trainer.{name}"

    def _call(self, sample_shape: tuple[int, ...]) -> str:
        function = self._name.rpartition(":")[2]
        options = [f"{name}={value!r}" for name, value in self._options.items()]
        return f"{function}({', '.join([str(list(sample_shape)), *options])})"

    @property
    def _name(self) -> str:
        return self.trainer.model.name

    @property
    def _options(self) -> dict[str, Any]:
        return dict(self.trainer.model.model_extra or {})


_Parameters = Mapping[str, inspect.Parameter]


def _callable_of(name: str) -> Callable[..., Any]:
    return MODELS.get(name) or resolve(name, "trainer.model.name")


def _parameters(function: Callable[..., Any]) -> _Parameters | None:
    """None of a callable that does not tell."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def _shape_and_fields(
    parameters: _Parameters,
) -> tuple[str | None, dict[str, inspect.Parameter], bool]:
    """Which parameter takes the shape, those that are fields, and whether any other field is
    taken."""
    kinds = inspect.Parameter
    by_place = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD, kinds.VAR_POSITIONAL)
    by_name = (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    shape = next((name for name, p in parameters.items() if p.kind in by_place), None)
    fields = {n: p for n, p in parameters.items() if p.kind in by_name and n != shape}
    return shape, fields, any(p.kind is kinds.VAR_KEYWORD for p in parameters.values())


def _takes_two(parameters: _Parameters | None) -> bool:
    if parameters is None:
        return True
    try:
        inspect.Signature(list(parameters.values())).bind(None, None)
    except TypeError:
        return False
    return True


def _where(error: BaseException) -> str:
    """`` (my_nets.py, line 12)``: the innermost line that is the user's own."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f for f in frames if not any(Path(f.filename).is_relative_to(p) for p in _NOT_THE_USERS)
    ]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
