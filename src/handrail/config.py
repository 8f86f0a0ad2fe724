"""The mechanism of configs: load YAML, apply `key=value`, validate, freeze, print.

Settings themselves stand beside what they configure, as subclasses of `Settings`.
"""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from handrail.errors import ConfigError


class Settings(BaseModel):
    """A frozen group of settings.  Unknown keys are errors; text is never read as a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())
    SECTIONS: ClassVar[dict[str, type["Settings"]]] = {}  # mappings that are validated later, and by what


S = TypeVar("S", bound=Settings)


class _Loader(yaml.SafeLoader):
    """Safe YAML with the numbers and booleans of YAML 1.2: `1e-5` is a number, `no` is text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.inf|\.nan)$"),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as something else: a revision `12345e7` stays text."""


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_Loader.yaml_implicit_resolvers.get(first, [])]
    for first in yaml.SafeDumper.yaml_implicit_resolvers.keys() | _Loader.yaml_implicit_resolvers.keys()
}


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    seen: dict[Any, int] = {}
    for key, _ in node.value:
        name, line = loader.construct_object(key), key.start_mark.line + 1
        if name in seen:
            raise ConfigError(
                f"{key.start_mark.name}, line {line}: the key '{name}' stands here a second time",
                f"a key stands once; the first is on line {seen[name]}",
                "remove one of the two",
            )
        seen[name] = line
    loader.flatten_mapping(node)
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: str | Path) -> dict:
    """The mapping in a YAML file.  Raises ConfigError with the line for whatever is wrong with it."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file", "", "`handrail init DIR` writes one to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", "a text file in UTF-8") from None
    return _parse(text, str(path))


def _parse(text: str, name: str) -> dict:
    loader = _Loader(text)
    loader.name = name
    try:
        loaded = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {error}") from None
    finally:
        loader.dispose()
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{name}: found a {type(loaded).__name__}", "a mapping of `key: value` lines")
    return loaded


def override(settings: dict, assignments: list[str] | tuple[str, ...]) -> dict:
    """A copy of `settings` with each `a.b=value` applied; the value is read as YAML."""
    merged = _copy(settings)
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{assignment}' on the command line", "key=value, for example `lr=1e-4` or `model.path=runs/sft`")
        target = merged
        *path, last = key.split(".")
        for part in path:
            if not isinstance(target.get(part), dict):
                target[part] = {}
            target = target[part]
        target[last] = _parse(f"value: {value}" if value else "value: null", f"the value of {key}")["value"]
    return merged


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def validate(schema: type[S], settings: dict, source: str) -> S:
    """`settings` as a frozen `schema`.  Every fault is named with its key, what is allowed and the nearest name."""
    try:
        return schema.model_validate(settings)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(schema, fault, source) for fault in error.errors())) from None


def _explain(schema: type[Settings], fault: Any, source: str) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    where = f"{source}: {key or 'settings'}"
    if fault["type"] == "extra_forbidden":
        return f"{where}: there is no such setting; {_hint(_group(schema, fault['loc'][:-1]), fault['loc'])}"
    if fault["type"] == "missing":
        return f"{where}: must be given"
    message = PLAIN.get(fault["type"]) or fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    found = fault.get("input")
    quoted = f"text {found!r}" if isinstance(found, str) else repr(found)
    return f"{where}: {message}" if isinstance(found, dict) else f"{where}: found {quoted}; it {message}"


PLAIN = {  # what a value should be, in the words of the help; by pydantic's name for the fault
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "finite_number": "should be a finite number",
    "string_type": "should be text",
    "bool_type": "should be true or false",
    "list_type": "should be a list",
    "dict_type": "should be a mapping of `key: value`",
    "model_type": "should be a mapping of `key: value`",
}


def _hint(schema: type[Settings], path: tuple) -> str:
    """What may have been meant by the key at the end of the path, whose group has this schema."""
    *above, wrong = map(str, path)
    if deeper := [".".join([*above, key]) for key in _below(schema) if key.rpartition(".")[2] == wrong]:
        return f"did you mean {' or '.join([', '.join(deeper[:-1]), deeper[-1]] if deeper[1:] else deeper)}?"
    if near := difflib.get_close_matches(wrong, schema.model_fields, n=1):
        return f"did you mean '{'.'.join([*above, near[0]])}'?"
    return f"known keys here: {', '.join(schema.model_fields)}"


def _below(schema: type[Settings]) -> Iterator[str]:
    """Dotted keys of the groups in a group and of its sections, as deep as one more group."""
    for name, field in schema.model_fields.items():
        for key in (_nested(field.annotation) or schema.SECTIONS.get(name, Settings)).model_fields:
            yield f"{name}.{key}"


def _nested(annotation: Any) -> type[Settings] | None:
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    return next((a for a in candidates if isinstance(a, type) and issubclass(a, Settings)), None)


def _group(schema: type[Settings], path: tuple) -> type[Settings]:
    for part in path:
        field = schema.model_fields.get(part) if isinstance(part, str) else None
        if field is None:
            continue
        schema = _nested(field.annotation) or schema
    return schema


def load(schema: type[S], path: str | Path, assignments: list[str] | tuple[str, ...] = (), section: str = "") -> S:
    """Settings of kind `schema` from a file and the command line.

    A file that has a top-level key `section` is a whole round's; then only that part of it is taken.
    """
    settings = read_yaml(path)
    if section and isinstance(settings.get(section), dict):
        settings = settings[section]
    return validate(schema, override(settings, assignments), str(path))


def dump(settings: Settings) -> str:
    """The settings as YAML that `load` reads back to the same settings."""
    return yaml.dump(settings.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def is_local(path: str) -> bool:
    """Whether a path that leads nowhere is one of this machine all the same, not an ORGANISATION/NAME on the hub."""
    parts = Path(path).parts
    return path.startswith((".", "/", "~")) or len(parts) > 2 or (len(parts) == 2 and (parts[0] == "runs" or Path(parts[0]).exists()))


def nearby(path: str) -> str:
    """What there is near a path that leads nowhere; "" where that is nothing."""
    missing = Path(path).expanduser()
    above = next((folder for folder in missing.parents if folder.is_dir()), Path())
    names = sorted(entry.name for entry in above.iterdir() if not entry.name.startswith("."))
    near = difflib.get_close_matches(missing.parts[len(above.parts)], names, n=3) or names[:8]
    return f"there is {', '.join(str(above / name) for name in near)}" if near else ""
