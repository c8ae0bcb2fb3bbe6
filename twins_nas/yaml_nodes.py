"""YAML text as plain values with the line of every key; what is wrong with it becomes faults.

The words are those of YAML 1.2: `12e6`, `1e-3` are numbers, `true`, `false` the only booleans.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import yaml

from twins_nas.errors import ConfigError, Fault

Place = tuple[str | int, ...]

MOST_BYTES = 1_000_000
MOST_VALUES = 100_000
MOST_DIGITS = 1000
MOST_EXACT = 15
LONGEST = 60
_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    "merge": (r"<<", "<"),
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
}


_Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]
_SYNTAX = {
    "'\\t'": "not YAML: a tab; use spaces",
    "another document": "a second document begins here (`---`); a file holds one",
    "mapping values are not": "not YAML: a `:` too many, or a wrong indentation",
    "could not find expected ':'": "not YAML: a key without its `:`",
    "expected <block end>": "not YAML: the indentation differs from that of the lines above",
    "<stream end>": "not YAML: the file ends inside of a list or a mapping",
    "unexpected end of stream": "not YAML: the file ends inside of quotes",
    "expected ',' or": "not YAML: a comma or a closing bracket is missing",
}


class _Loader(yaml.SafeLoader):
    """Builds the tree of nodes only; values are made below, so that no fault hides another."""

    yaml_implicit_resolvers: ClassVar[_Resolvers] = {}  # type: ignore[misc]


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read as a text; short lists and mappings are one line."""

    yaml_implicit_resolvers: ClassVar[_Resolvers] = {}  # type: ignore[misc]

    def ignore_aliases(self, data: Any) -> bool:
        """Writes equal values out each time."""
        return True

    def represent_mapping(
        self, tag: str, mapping: Any, flow_style: bool | None = None
    ) -> yaml.MappingNode:
        """One line for at most two keys."""
        return super().represent_mapping(tag, mapping, flow_style=len(mapping) <= 2)

    def represent_sequence(
        self, tag: str, sequence: Any, flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        """One line for plain values."""
        flow_style = not any(isinstance(item, dict) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flow_style)


for _name, (_pattern, _first) in _PLAIN.items():
    _letters = [*_first, ""] if _name == "null" else list(_first)
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), _letters)


@dataclass(frozen=True)
class Document:
    """The value of a YAML file, and the line of each of its keys and list entries."""

    file: str
    value: Any
    lines: Mapping[Place, int]
    overridden: frozenset[Place] = frozenset()

    def changed(self, overrides: Mapping[str, Any]) -> Document:
        """The document with other values at dotted keys, whose faults are the command line's."""
        value = self.value
        places = [tuple(key.split(".")) for key in overrides]
        for place, new in zip(places, overrides.values(), strict=True):
            value = _with(value, place, new)
        return replace(self, value=value, overridden=self.overridden | frozenset(places))

    def fault(self, place: Place, problem: str, allowed: str = "") -> Fault:
        """A fault of a key; where the file lacks it, with the line of what holds it."""
        if place in self.overridden:
            return Fault("the command line", 0, dotted(place), problem, allowed)
        above = [place[:end] for end in range(len(place), 0, -1)]
        line = next((self.lines[item] for item in above if item in self.lines), 0)
        return Fault(self.file, line, dotted(place), problem, allowed)


def _with(value: Any, place: tuple[str, ...], new: Any) -> Any:
    """The mapping with a new value at a place; whatever is no mapping stays as it is."""
    if not place:
        return new
    if not isinstance(value, dict):
        return value
    return {**value, place[0]: _with(value.get(place[0], {}), place[1:], new)}


def dotted(place: Place) -> str:
    """`stages.0.depth`."""
    return ".".join(_short(str(part)) for part in place)


def shown(value: Any) -> str:
    """A value as a message names it; a mapping or a list by that word."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "an empty value"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 10**MOST_EXACT:
        value = int(value)
    return _short(f"{value:g}" if isinstance(value, float) else repr(value))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def write(value: dict[str, Any]) -> str:
    """YAML text that `read` reads as this value."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=100)
    return text


def read(path: str | Path) -> Document:
    """The document of a YAML file.

    Raises:
        ConfigError: an unreadable file, text that is not YAML, or all faults of its keys.
    """
    return parse(_text(path), printable(str(path)))


def parse(text: str, file: str) -> Document:
    """The document of a YAML text; `file` is its name in messages.

    Raises:
        ConfigError: text that is not YAML, or all faults of its keys.
    """
    try:
        root = _tree(file, text)
        if root is None:
            raise ConfigError([Fault(file, 0, "", "the file is empty")])
        builder = _Builder(file)
        value = builder.build(root, (), ())
    except RecursionError:
        raise ConfigError([Fault(file, 0, "", "the values are nested too deeply")]) from None
    if builder.faults:
        raise ConfigError(dict.fromkeys(builder.faults))
    return Document(file, value, builder.lines)


def printable(name: str) -> str:
    """The name of a file as a message has it."""
    return name if name and name.isprintable() else repr(name)


def _text(path: str | Path) -> str:
    file = printable(str(path))
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        problem = "there is no such file"
    except IsADirectoryError:
        problem = "this is a folder, a YAML file is needed"
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem = f"the file cannot be read: {reason}"
    else:
        if len(data) > MOST_BYTES:
            problem = f"the file is over {MOST_BYTES:,} bytes"
        elif b"\0" in data:
            problem = "this is no UTF-8 text, but a binary file or UTF-16"
        else:
            try:
                return data.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                line = data.count(b"\n", 0, error.start) + 1
                raise ConfigError([Fault(file, line, "", "the text is not UTF-8")]) from None
    raise ConfigError([Fault(file, 0, "", problem)])


def _tree(file: str, text: str) -> yaml.Node | None:
    line = 0
    try:
        node: yaml.Node | None = _Loader(text).get_single_node()
        return node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        problem = _syntax(error)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"the letter {chr(error.character)!a} is not allowed in YAML"
    except (ValueError, OverflowError):
        problem = "not YAML: an escape such as \\U00110000 names no letter"
    raise ConfigError([Fault(file, line, "", problem)])


def _syntax(error: yaml.MarkedYAMLError) -> str:
    said = error.problem or ""
    plain = (words for part, words in _SYNTAX.items() if part in said)
    return next(plain, f"not YAML: {said or 'the text ends too early'}")


class _Builder:
    """Walks the nodes once, and collects values, lines and faults."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Place, int] = {}
        self.faults: list[Fault] = []
        self.count = 0

    def build(
        self, node: yaml.Node, place: Place, above: tuple[yaml.Node, ...], line: int = 0
    ) -> Any:
        """The value of a node; `above` are the nodes that hold it, `line` is that of its key."""
        self.count += 1
        if self.count > MOST_VALUES:
            problem = f"over {MOST_VALUES:,} values once its aliases are written out"
            raise ConfigError([Fault(self.file, 0, "", problem)])
        if any(node is other for other in above):
            return self._fault(node, place, "an alias of what holds it, so the value has no end")
        self.lines[place] = line or node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, place, (*above, node))
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            items = enumerate(node.value)
            return [self.build(item, (*place, index), (*above, node)) for index, item in items]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        return self._tag(node, place)

    def _fault(self, node: yaml.Node, place: Place, problem: str) -> None:
        self.faults.append(Fault(self.file, node.start_mark.line + 1, dotted(place), problem))

    def _tag(self, node: yaml.Node, place: Place) -> None:
        tag = ascii(node.tag.replace(_TAG, "!!"))[1:-1]
        self._fault(node, place, f"the tag {_short(tag)} is not allowed, only plain values are")

    def _mapping(
        self, node: yaml.MappingNode, place: Place, above: tuple[yaml.Node, ...]
    ) -> dict[str, Any]:
        merges = [value for key, value in node.value if key.tag == _TAG + "merge"]
        result: dict[str, Any] = {}
        for value in merges:
            result |= self._merged(value, place, above)
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == _TAG + "merge":
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._fault(key, place, "a key is a list or a mapping, a word is needed")
            elif not key.value.isprintable():
                self._fault(key, place, "a key holds a letter that cannot be printed")
            elif key.value in first:
                problem = f"given twice (first in line {first[key.value]})"
                self._fault(key, (*place, key.value), problem)
            else:
                first[key.value] = line
                result[key.value] = self.build(value, (*place, key.value), above, line)
        return result

    def _merged(
        self, node: yaml.Node, place: Place, above: tuple[yaml.Node, ...]
    ) -> dict[str, Any]:
        """The keys that `<<: *name` or `<<: [*one, *other]` brings; the first of a list wins."""
        result: dict[str, Any] = {}
        for source in reversed(node.value if isinstance(node, yaml.SequenceNode) else [node]):
            if isinstance(source, yaml.MappingNode):
                result |= self.build(source, place, above, self.lines[place]) or {}
            else:
                self._fault(source, (*place, "<<"), "a mapping, or a list of them, is needed")
        return result

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        if kind in ("str", "merge"):
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                return self._fault(node, place, "holds an escape that names no letter")
            return text
        if kind not in _PLAIN:
            return self._tag(node, place)
        if not re.fullmatch(_PLAIN[kind][0], text):
            return self._fault(node, place, f"{shown(text)} is not of the type !!{kind}")
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        digits = text.replace("_", "")
        if kind == "float":
            return float(digits.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if len(digits) > MOST_DIGITS:
            return self._fault(node, place, f"a number of {len(digits)} digits is too large")
        return int(digits)
