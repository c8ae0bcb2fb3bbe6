"""What all YAML documents share: the base of their models, numbers, faults in plain words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic import ModelWrapValidatorHandler as Handler
from pydantic_core import InitErrorDetails, PydanticCustomError

from twins_nas.errors import did_you_mean
from twins_nas.yaml_nodes import Place, shown

LARGEST = 10_000
_KINDS = {
    "bool_type": "true or false",
    "string_type": "a word",
    "list_type": "a list",
    "tuple_type": "a list",
}


def problem(text: str, allowed: str = "") -> PydanticCustomError:
    """A fault of a value, to be raised by its validator."""
    details = {"problem": text, "allowed": allowed}
    return PydanticCustomError("problem", "{problem}", details)


def problem_at(place: Place, value: Any, text: str, allowed: str = "") -> ValidationError:
    """A fault of something inside a value, to be raised by the validator of the whole."""
    details = InitErrorDetails(type=problem(text, allowed), loc=place, input=value)
    return ValidationError.from_exception_data("document", [details])


class Model(BaseModel):
    """A mapping of a YAML file: frozen, without unknown keys, its faults in plain words."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="wrap")
    @classmethod
    def _plainly(cls, value: Any, handler: Handler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            faults = [_plain(item, cls) for item in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, faults) from None


def _plain(error: Mapping[str, Any], model: type[BaseModel]) -> InitErrorDetails:
    kind, value, place = error["type"], error["input"], error["loc"]
    if kind == "problem":
        said = problem(error["ctx"]["problem"], error["ctx"]["allowed"])
    elif kind == "extra_forbidden":
        keys = list(model.model_fields)
        said = problem(f"unknown key{did_you_mean(place[-1], keys)}", ", ".join(keys))
    elif kind == "missing":
        said = problem("is missing")
    elif kind == "too_short":
        said = problem("the list is empty")
    elif kind == "literal_error":
        words = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        said = unknown_word(value, words)
    elif kind == "model_type":
        allowed = "" if place else ", ".join(model.model_fields)
        said = problem(f"{shown(value)} is not a mapping of keys to values", allowed)
    else:
        said = problem(f"{shown(value)} is not {_KINDS.get(kind, 'legal here')}")
    return InitErrorDetails(type=said, loc=place, input=value)


def unknown_word(value: Any, words: list[str]) -> PydanticCustomError:
    """The fault of a value that is none of the words."""
    hint = did_you_mean(value, words) if isinstance(value, str) else ""
    return problem(f"{shown(value)} is not known{hint}", ", ".join(words))


def whole(least: int = 1, most: int = LARGEST, word: str = "") -> BeforeValidator:
    """Lets whole numbers from `least` to `most` pass, `12e6` too, and the one word."""
    legal = f"{least} to {most}" + (f", or {word}" if word else "")

    def check(value: Any) -> int | str:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if word and isinstance(value, str):
            return _the_word(value, word, legal)
        if isinstance(value, bool) or not isinstance(value, int):
            raise problem(f"{shown(value)} is not a whole number", legal)
        if not least <= value <= most:
            raise problem(f"{shown(value)} is too {'small' if value < least else 'large'}", legal)
        return value

    return BeforeValidator(check)


def number(
    least: float = 0,
    most: float = LARGEST,
    above: float | None = None,
    below: float | None = None,
    word: str = "",
) -> BeforeValidator:
    """Lets numbers within the bounds pass, and the one word; `above`, `below` exclude the bound."""
    low = f"at least {least:g}" if above is None else f"more than {above:g}"
    high = f"at most {most:g}" if below is None else f"less than {below:g}"
    legal = f"{low} and {high}" + (f", or {word}" if word else "")

    def check(value: Any) -> float | str:
        if word and isinstance(value, str):
            return _the_word(value, word, legal)
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise problem(f"{shown(value)} is not a number", legal)
        if value < least or (above is not None and value <= above):
            raise problem(f"{shown(value)} is too small", legal)
        if value > most or (below is not None and value >= below):
            raise problem(f"{shown(value)} is too large", legal)
        return float(value)

    return BeforeValidator(check)


def _the_word(value: str, word: str, legal: str) -> str:
    if value != word:
        raise problem(f"{shown(value)} is not known{did_you_mean(value, [word])}", legal)
    return value
