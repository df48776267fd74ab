"""A YAML (or JSON) file in which everything is what it looks like.

YAML as people know it guesses: ``no`` becomes false, ``1:30`` becomes 90, a key written twice
silently wins. Here a plain word is a word; only JSON's numbers are numbers, only ``true``,
``false`` and ``null`` are what they say; duplicate keys, tags, anchors and times of day are
refused. A `Document` remembers the line of everything in it, and turns what pydantic finds wrong
into an `InputError` with file, line, key and remedy. `Settings` is the base of all models of files.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from topologies.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Value = str | int | float | bool | None | list["Value"] | dict[str, "Value"]
Place = tuple[str | int, ...]

LARGEST_FILE_BYTES = 64 * 2**20

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
# The only files that may say so: XML, as SNDlib's.
_ENCODING = re.compile(rb"<\?xml[^>]*encoding=[\"'](iso-8859-1|us-ascii|windows-1252)[\"']", re.I)
_SEXAGESIMAL = re.compile(r"[0-9]+(?::[0-9]{1,2})+(?:\.[0-9]*)?")
_WANTED = {
    "model_type": "a mapping of settings",
    "dict_type": "a mapping of settings",
    "list_type": "a list",
    "tuple_type": "a list",
    "string_type": "text",
    "string_too_short": "some text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
}
_WORDS: Mapping[str, bool | None] = {
    "true": True,
    "false": False,
    "null": None,
    "~": None,
    "": None,
}
_TAGS = {
    "ScalarEvent": "str int float bool null timestamp",
    "SequenceStartEvent": "seq",
    "MappingStartEvent": "map",
}
_DEEPEST = 200


class Settings(BaseModel):
    """A mapping in a file: frozen, with every key checked. Subclass it for each kind of mapping."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shorthand: ClassVar[tuple[str, ...]] = ()
    """What may stand for the whole mapping, where a text can: examples."""
    knows_null: ClassVar[bool] = False
    """Whether null says that something is left out, as programs write it; people leave it out."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        whole = handler.resolve_ref_schema(handler(core_schema))
        if not cls.shorthand:
            return whole
        return {"anyOf": [{"type": "string", "examples": [*cls.shorthand]}, whole]}

    @model_validator(mode="before")
    @classmethod
    def _knows_every_key(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            known = cls.settings()
            for key, value in given.items():
                if key not in known:
                    context = {"key": str(key), "remedy": cls.remedy_for(str(key))}
                    raise PydanticCustomError("unknown_setting", "{key}: {remedy}", context)
                if value is None and not cls.knows_null:
                    context = {"key": str(key), "remedy": "Write its value, or leave it out"}
                    raise PydanticCustomError("empty_setting", "{key}: {remedy}", context)
        return given

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """The keys such a mapping may have, as they are written in files."""
        return _settings_of(cls)

    @classmethod
    def remedy_for(cls, key: str) -> str:
        """What to tell the writer of an unknown key."""
        return did_you_mean(key, cls.settings(), what="settings here")


@cache
def _settings_of(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(info.alias or name for name, info in model.model_fields.items())


_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """What a file says, and where it says it.

    Attributes:
        file: its name in errors.
        value: what it says, in plain dicts, lists, text and numbers.
        lines: the line of each key and list element, by the path to it.
        failure: the class of the errors it raises.
    """

    file: str
    value: Value
    lines: Mapping[Place, int] = field(default_factory=dict, repr=False)
    failure: type[InputError] = InputError

    def error(self, problem: str, place: Place = (), remedy: str | None = None) -> InputError:
        """An error about what stands at this place."""
        key = _spell(place) or None
        return self.failure(problem, file=self.file, key=key, remedy=remedy, line=self.line(place))

    def mapping(self, place: Place = ()) -> dict[str, Value]:
        """The mapping that stands at this place; the document's error when something else does."""
        value = self._at(place)
        if not isinstance(value, dict):
            raise self.error(
                f"a mapping of settings was expected here, not {_describe(value)}", place
            )
        return value

    def read(self, model: type[_Model], value: object, place: Place = ()) -> _Model:
        """*value*, which stands at *place*, as a checked model.

        Raises the document's error about the first thing in the file that is wrong with it.
        """
        try:
            return model.model_validate(value)
        except ValidationError as invalid:
            raise self._translate(invalid, place) from None

    def _translate(self, invalid: ValidationError, place: Place) -> InputError:
        errors = invalid.errors(include_url=False)
        errors.sort(key=lambda error: self.line((*place, *error["loc"])) or 0)
        problem, remedy, tail = _explain(errors[0])
        more = f" (the first of {len(errors)} problems)" if len(errors) > 1 else ""
        return self.error(problem + more, (*place, *errors[0]["loc"], *tail), remedy)

    def line(self, place: Place) -> int | None:
        """The line of this place, or else of what it stands in; None where none is known."""
        return next((self.lines[p] for p in _shorter(place) if p in self.lines), None)

    def _at(self, place: Place) -> Value:
        value: Any = self.value
        for step in place:
            value = value[step]
        return value  # type: ignore[no-any-return]


def read_text(path: Path, failure: type[InputError] = InputError) -> str:
    """The text of a file. Raises *failure* when it is missing, unreadable, too large or no text."""
    name = str(path)
    try:
        if path.is_dir():
            raise failure("this is a folder", file=name, remedy="Name a file in it")
        status = path.stat()
        if stat.S_ISCHR(status.st_mode):
            raise failure("this is a device, and may never end", file=name, remedy="Name a file")
        if status.st_size > LARGEST_FILE_BYTES:
            largest = LARGEST_FILE_BYTES // 2**20
            raise failure(f"the file is larger than {largest} MiB", file=name)
        content = path.read_bytes()
        declared = _ENCODING.match(content)
        return content.decode(declared[1].decode() if declared else "utf-8-sig")
    except FileNotFoundError:
        raise failure("there is no such file", file=name, remedy="Check the path") from None
    except (UnicodeDecodeError, LookupError):
        remedy = "Name a text file, or save this one as UTF-8"
        raise failure("the file is not text in UTF-8", file=name, remedy=remedy) from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise failure(f"the file can't be read: {error}", file=name) from None


def parse_yaml(text: str, file: str, failure: type[InputError] = InputError) -> Document:
    """The document that this YAML text is; *file* is its name in errors. Raises *failure*."""
    # Imported late: those who read no YAML don't wait for it.
    import yaml  # noqa: PLC0415

    # libyaml reads sixty times as fast, and the other tells better what is wrong.
    fast = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        return _Builder(yaml.parse(text, Loader=fast), file, failure).document()
    except (yaml.YAMLError, UnicodeEncodeError):
        pass
    try:
        return _Builder(yaml.parse(text, Loader=yaml.BaseLoader), file, failure).document()
    except yaml.reader.ReaderError as error:
        problem = f"the character U+{int(error.character):04X} can't stand in a file"
        position = text.count("\n", 0, error.position) + 1
        raise failure(problem, file=file, line=position, remedy="Leave it out") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        problem = " ".join(str(error.problem or error.context or "this is not YAML").split())
        raise failure(f"this is not YAML: {problem}", file=file, line=line) from None
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())[:200]
        raise failure(f"this is not YAML: {problem}", file=file) from None


def parse_json(text: str, file: str, failure: type[InputError] = InputError) -> Document:
    """The document that this JSON text is, duplicate keys refused. Raises *failure*."""

    def unique(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
        mapping: dict[str, Value] = {}
        for key, value in pairs:
            if key in mapping:
                raise failure(f'the key "{key}" is there twice', file=file, key=key)
            mapping[key] = value
        return mapping

    def refuse(constant: str) -> Value:
        raise failure(f"{constant} is no number", file=file)

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise failure(f"this is not JSON: {error.msg}", file=file, line=error.lineno) from None
    except RecursionError:
        raise failure("the file is nested too deeply", file=file) from None
    return Document(file=file, value=value, failure=failure)


class _Builder:
    """Makes plain values of the events of a YAML text, noting the line of everything."""

    def __init__(self, events: Iterator[Any], file: str, failure: type[InputError]) -> None:
        self._events = events
        self._lines: dict[Place, int] = {}
        self._file = file
        self._failure = failure
        self._depth = 0

    def document(self) -> Document:
        next(self._events)  # the stream begins
        event = next(self._events)
        if _kind(event) == "StreamEndEvent":
            remedy = "Was it saved, and is it this one?"
            raise self._failure("the file is empty", file=self._file, remedy=remedy)
        value = self._value(next(self._events), ())
        next(self._events)  # the document ends
        event = next(self._events)
        if _kind(event) != "StreamEndEvent":
            line = _line(event)
            problem = "this is not YAML: but one document was expected"
            raise self._failure(problem, file=self._file, line=line, remedy="Leave out the ---")
        return Document(file=self._file, value=value, lines=self._lines, failure=self._failure)

    def _value(self, event: Any, place: Place) -> Value:
        self._lines.setdefault(place, _line(event))
        kind = _kind(event)
        if event.anchor is not None:
            raise self._error("anchors and aliases are not used here", place, "Write it out")
        if event.tag is not None:
            self._refuse_tag(str(event.tag), _TAGS[kind], place)
        if kind == "ScalarEvent":
            return event.value if event.style else self._scalar(event.value, place)
        self._depth += 1
        if self._depth > _DEEPEST:
            remedy = f"Nothing needs more than {_DEEPEST} levels"
            raise self._failure("the file is nested too deeply", file=self._file, remedy=remedy)
        value: Value = (
            self._sequence(place) if kind == "SequenceStartEvent" else self._mapping(place)
        )
        self._depth -= 1
        return value

    def _sequence(self, place: Place) -> list[Value]:
        values: list[Value] = []
        for event in self._events:
            if _kind(event) == "SequenceEndEvent":
                break
            values.append(self._value(event, (*place, len(values))))
        return values

    def _mapping(self, place: Place) -> dict[str, Value]:
        mapping: dict[str, Value] = {}
        for event in self._events:
            if _kind(event) == "MappingEndEvent":
                break
            if _kind(event) != "ScalarEvent":
                raise self._error("a key has to be a word", place)
            key = str(event.value)
            below = (*place, key)
            if key in mapping:
                first = self._lines[below]
                self._lines[below] = _line(event)
                remedy = f"The first stands on line {first}: keep one"
                raise self._error("this key is there twice", below, remedy)
            if event.anchor is not None:
                raise self._error("anchors and aliases are not used here", below, "Write it out")
            self._lines[below] = _line(event)
            mapping[key] = self._value(next(self._events), below)
        return mapping

    def _scalar(self, text: str, place: Place) -> Value:
        if text in _WORDS:
            return _WORDS[text]
        if text[0] not in "-0123456789":
            return text
        if _SEXAGESIMAL.fullmatch(text):
            raise self._error(
                f'"{text}" could be a time of day, minutes, or a name',
                place,
                'Write a time with its unit, as "90 s", and put a name between quotes',
            )
        if not _NUMBER.fullmatch(text) or len(text) > 40:
            return text
        if text.lstrip("-").isdigit():
            return int(text)
        number = float(text)
        return text if number in (float("inf"), float("-inf")) else number

    def _refuse_tag(self, tag: str, allowed: str, place: Place) -> None:
        kind = tag.removeprefix("tag:yaml.org,2002:")
        if kind == tag or kind not in allowed.split():
            raise self._error(f'the tag "{tag}" is not used here', place, "Leave it out")

    def _error(self, problem: str, place: Place, remedy: str | None = None) -> InputError:
        document = Document(self._file, None, self._lines, self._failure)
        return document.error(problem, place, remedy)


def _kind(event: object) -> str:
    return type(event).__name__


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _explain(error: ErrorDetails) -> tuple[str, str | None, Place]:
    """Pydantic's finding in our words: problem, remedy, and what to add to its place."""
    context = error.get("ctx", {})
    if error["type"] == "unknown_setting":
        return "there is no such setting", str(context["remedy"]), (str(context["key"]),)
    if error["type"] == "empty_setting":
        return "nothing stands here", str(context["remedy"]), (str(context["key"]),)
    inner = context.get("error")
    if isinstance(inner, InputError):
        return inner.problem, inner.remedy, ()
    if isinstance(inner, Exception):
        return str(inner), None, ()
    if error["type"] == "missing":
        return "this setting is missing", None, ()
    wanted = _WANTED.get(error["type"])
    if wanted is None:
        message = error["msg"].removeprefix("Input ").removeprefix("should be ")
        wanted = f"something {message}" if message != error["msg"] else message
    return f"{wanted} was expected here, not {_describe(error['input'])}", None, ()


def _describe(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = str(value)
    return f'"{text}"' if len(text) <= 60 else f'"{text[:57]}…"'


def _spell(place: Place) -> str:
    """``("timeline", 3, "at")`` as people count: ``timeline #4 > at``."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f" #{step + 1}"
        else:
            text += f" > {step}" if text else step
    return text.strip()


def _shorter(place: Place) -> Iterator[Place]:
    for length in range(len(place), -1, -1):
        yield place[:length]
