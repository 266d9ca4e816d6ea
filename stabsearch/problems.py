"""What is wrong with an input, in one form: where, what was found, the rule, the remedy.

pydantic finds most of it; this turns its errors into sentences, and lets our own rules speak
through it (a ``ValidationError`` that holds ours keeps the path and can hold several).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

Path = tuple[str | int, ...]

FIELD_RULE = "field_rule"
"""Error type of a rule about one value."""
JOINT_RULE = "joint_rule"
"""Error type of a rule about several fields together."""

NOTHING = object()
"""Stands for a value that is not shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    path: Path
    value: Any
    """As written; ``NOTHING`` where showing it says nothing."""
    rule: str
    """What was broken, without a full stop."""
    remedy: str
    """What to do, as a sentence."""
    partners: tuple[str, ...] = ()
    """Dotted names of the other fields that a joint rule looks at."""

    def __str__(self) -> str:
        where = dotted(self.path) or "the study"
        if self.value is NOTHING:
            return f"{where}: {self.rule}. {self.remedy}".rstrip()
        return f"{where}: {show(self.value)} — {self.rule}. {self.remedy}".rstrip()


def raise_problems(problems: Iterable[Problem], error_type: str = FIELD_RULE) -> None:
    """Raise one ValidationError with all of them; return if there are none."""
    details: list[InitErrorDetails] = [
        {
            "type": PydanticCustomError(
                error_type,
                "{rule}. {remedy}",
                {"rule": p.rule, "remedy": p.remedy, "partners": list(p.partners)},
            ),
            "loc": p.path,
            "input": p.value,
        }
        for p in problems
    ]
    if details:
        raise ValidationError.from_exception_data("study", details)


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """The sentences for a failed validation of ``model``."""
    return [_problem(details, model) for details in error.errors(include_url=False)]


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like ``name``, also when only its last dotted part is meant."""
    known = list(candidates)
    for candidate in known:
        if name == candidate.rpartition(".")[2] or candidate == name.rpartition(".")[2]:
            return candidate
    by_spelling = {candidate.lower(): candidate for candidate in reversed(known)}
    for candidate in reversed(known):
        by_spelling.setdefault(candidate.rpartition(".")[2].lower(), candidate)
    close = difflib.get_close_matches(name.lower(), by_spelling, n=1, cutoff=0.6)
    return by_spelling[close[0]] if close else None


def did_you_mean(name: str, candidates: Iterable[str], kind: str = "fields") -> str:
    """``Did you mean x?``, or the list of what is known where nothing is near."""
    known = list(candidates)
    found = nearest(name, known)
    if found:
        return f"Did you mean {found}?"
    if len(known) > 12:
        return f"`stabsearch schema` lists all {len(known)} {kind}."
    return f"Known {kind}: {', '.join(known)}." if known else "Remove it."


def dotted(path: Path) -> str:
    """``("space", "a.b", "int", 0)`` -> ``space.a.b.int[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def show(value: Any) -> str:
    """A value as it would be written in YAML, on one short line."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
    if isinstance(value, dict):
        text = ", ".join(f"{key}: {show(item)}" for key, item in value.items()) or "{}"
    elif isinstance(value, (list, tuple)):
        text = f"[{', '.join(show(item) for item in value)}]"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, float):
        text = f"{value:.15g}"
    elif isinstance(value, str) and (not value.isprintable() or _is_empty_or_number(value)):
        text = json.dumps(value, ensure_ascii=False)
    else:
        text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def leaf_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted name and info of every field that is not itself a section."""
    for name, info in model.model_fields.items():
        section = section_of(info)
        if section is None:
            yield f"{prefix}{name}", info
        else:
            yield from leaf_fields(section, f"{prefix}{name}.")


def section_of(info: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section; of one that may be left out, too."""
    kinds = get_args(info.annotation) or (info.annotation,)
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _problem(details: ErrorDetails, model: type[BaseModel]) -> Problem:
    path = details["loc"]
    value = details["input"]
    kind = details["type"]
    if kind in (FIELD_RULE, JOINT_RULE):
        told = details["ctx"]
        return Problem(
            path=path,
            value=value,
            rule=told["rule"],
            remedy=told["remedy"],
            partners=tuple(told["partners"]),
        )
    if kind == "extra_forbidden":
        remedy = _unknown_field_remedy(path, model)
        return Problem(path=path, value=NOTHING, rule="unknown field", remedy=remedy)
    info = _field_at(path, model)
    if kind == "missing" and isinstance(path[-1], int):  # the second of two numbers
        rule = _RULES["tuple_type"](details)
        remedy = "Write both ends of the range."
        return Problem(path=path[:-1], value=value, rule=rule, remedy=remedy)
    if kind == "missing":
        meaning = f" ({info.description})" if info and info.description else ""
        name = path[-1]
        remedy = f"Add {name}: ...{meaning}"
        return Problem(path=path, value=NOTHING, rule="is required", remedy=remedy)
    remedy = _remedy(details, info)
    return Problem(path=path, value=value, rule=broken_rule(details), remedy=remedy)


def broken_rule(details: ErrorDetails) -> str:
    """What pydantic found, in our words where there are some; without a full stop."""
    word = _RULES.get(details["type"])
    return word(details) if word else details["msg"].removeprefix("Value error, ").rstrip(".")


def _unknown_field_remedy(path: Path, model: type[BaseModel]) -> str:
    name = str(path[-1])
    section = _section_at(path[:-1], model)
    here = list(section.model_fields)
    if nearest(name, here) is None:
        elsewhere = [full for full, _ in leaf_fields(model) if full.rpartition(".")[2] == name]
        if elsewhere:
            return f"Did you mean {elsewhere[0]}?"
    return did_you_mean(name, here)


def _section_at(path: Path, model: type[BaseModel]) -> type[BaseModel]:
    for part in path:
        info = model.model_fields.get(str(part))
        section = section_of(info) if info else None
        if section is None:
            break
        model = section
    return model


def _field_at(path: Path, model: type[BaseModel]) -> FieldInfo | None:
    return _section_at(path[:-1], model).model_fields.get(str(path[-1])) if path else None


def _must_be_one_of(details: ErrorDetails) -> str:
    return f"must be one of {', '.join(_choices(details))}"


def _choices(details: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", details["ctx"]["expected"])


def _bound(word: str, key: str) -> Callable[[ErrorDetails], str]:
    return lambda details: f"must be {word} {show(details['ctx'][key])}"


def _is(rule: str) -> Callable[[ErrorDetails], str]:
    return lambda _: rule


_RULES: dict[str, Callable[[ErrorDetails], str]] = {
    "greater_than": _bound("greater than", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than": _bound("less than", "lt"),
    "less_than_equal": _bound("at most", "le"),
    "multiple_of": _bound("a multiple of", "multiple_of"),
    "literal_error": _must_be_one_of,
    "finite_number": _is("must be a finite number"),
    "float_type": _is("must be a number"),
    "float_parsing": _is("must be a number"),
    "int_type": _is("must be a whole number"),
    "int_parsing": _is("must be a whole number"),
    "int_from_float": _is("must be a whole number"),
    "bool_type": _is("must be true or false"),
    "bool_parsing": _is("must be true or false"),
    "string_type": _is("must be text"),
    "model_type": _is("must be a section: fields below it, each as 'name: value'"),
    "dict_type": _is("must be a section: fields below it, each as 'name: value'"),
    "list_type": _is("must be a list in brackets"),
    "tuple_type": _is("must be two numbers in brackets: [low, high]"),
    "too_long": _is("must be two numbers in brackets: [low, high]"),
    "too_short": _is("must not be empty"),
    "string_too_short": _is("must not be empty"),
}


def _remedy(details: ErrorDetails, info: FieldInfo | None) -> str:
    value = details["input"]
    kind = details["type"]
    if kind == "literal_error":
        found = nearest(str(value), _choices(details))
        return f"Did you mean {found}?" if found else "Use one of these."
    if kind in ("float_type", "int_type") and _looks_like_a_number(value):
        with_dot = _with_dot(value)
        return "Remove the quotes" + ("." if with_dot == value else f", or write {with_dot}.")
    if kind == "string_type" and isinstance(value, (int, float)):
        return f'Put it in quotes: "{show(value)}".'
    default = info.default if info is not None and not info.is_required() else None
    if isinstance(default, (bool, int, float, str)):
        return f"Use a value such as {show(default)}, the default."
    if kind in ("tuple_type", "too_long"):
        return "Write both ends of the range."
    if kind in ("model_type", "dict_type"):
        if isinstance(value, str) and _has_a_name(info):
            return f"Write {details['loc'][-1]}: {{name: {_in_braces(value)}}}."
        return "Indent its fields below it, or leave it out."
    if kind == "float_type" and _is_whole(info):
        kind = "int_type"
    way = _WAYS.get(kind, "Write it as it is described in `stabsearch schema`").format(
        **{name: show(bound) for name, bound in details.get("ctx", {}).items()}
    )
    may_be_null = info is not None and not info.is_required() and info.default is None
    return f"{way}, or null, the default." if may_be_null else f"{way}."


_WAYS = {
    "too_short": "Name at least one",
    "string_too_short": "Write at least one letter",
    "greater_than": "Use a number above {gt}",
    "greater_than_equal": "Use {ge} or more",
    "less_than": "Use a number below {lt}",
    "less_than_equal": "Use {le} or less",
    "multiple_of": "Use a multiple of {multiple_of}",
    "finite_number": "Write a number with digits, such as 0.1 or 1e-3",
    "float_type": "Write a number, such as 0.1 or 1e-3",
    "float_parsing": "Write a number, such as 0.1 or 1e-3",
    "int_type": "Write a whole number, such as 1",
    "int_parsing": "Write a whole number, such as 1",
    "int_from_float": "Write a whole number, such as 1",
    "bool_type": "Write true or false",
    "bool_parsing": "Write true or false",
    "string_type": "Write a text, such as my_text",
    "list_type": "Write its values in brackets, such as [1, 2]",
}
"""What to write instead, by the kind of error: templates over its bounds."""


def _has_a_name(info: FieldInfo | None) -> bool:
    section = section_of(info) if info is not None else None
    return section is not None and "name" in section.model_fields


def _in_braces(text: str) -> str:
    """Quoted where YAML might read it otherwise, as a reference ``module:function``."""
    return text if text.isidentifier() else json.dumps(text, ensure_ascii=False)


def _is_whole(info: FieldInfo | None) -> bool:
    """Whether a field holds whole numbers; of one that may be null, too."""
    kinds = (get_args(info.annotation) or (info.annotation,)) if info is not None else ()
    return any((get_args(kind) or (kind,))[0] is int for kind in kinds)


def _with_dot(number: str) -> str:
    """``1e-3`` as ``1.0e-3``: what PyYAML, which reads YAML 1.1, takes for a number."""
    digits, e, exponent = number.lower().partition("e")
    if not e:
        return number
    dot = "" if "." in digits else ".0"
    sign = "" if exponent[0] in "+-" else "+"
    return f"{digits}{dot}e{sign}{exponent}"


def _is_empty_or_number(text: str) -> bool:
    return not text or _looks_like_a_number(text)


def _looks_like_a_number(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True
