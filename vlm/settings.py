"""Config files: YAML into typed, frozen settings, with overrides such as `train.steps=100`.

Knows no particular config. A key that the settings do not have is an error naming the nearest one they have.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from vlm.errors import UserError
from vlm.guide import describe

T = TypeVar("T")

LARGEST = 2**31 - 1
"""Whole numbers beyond it are slips of the hand: no size, count or seed of a run needs them."""


class Settings(BaseModel):
    """Base of a config's sections: frozen, no unknown keys. Standard dataclasses may be sections too."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def load_settings(path: Path | str, kind: type[T], overrides: Sequence[str] = ()) -> T:
    """Read the YAML file at `path` into `kind` (a `Settings` or a dataclass).

    overrides: "section.key=value", the value in YAML, applied in order. Raises `UserError` for an unreadable
    file, bad YAML, an unknown key (naming the nearest known one), a value of the wrong type, or a number that is
    infinite, none, or beyond `LARGEST`.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read the config {path} ({reason}); pass another --config") from error
    # PyYAML lets out what Python says of an impossible date, an endless number or a bottomless nest.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}, expected keys and values")
    _refuse_unknown(values, kind, str(path))
    for override in overrides:
        _override(values, override, kind)
    try:
        settings = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error)}") from error
    _refuse_endless(settings, str(path))
    return settings


def packaged_config(name: str) -> Path:
    """The path of a config that ships with this package, by its name without ending: "tokenizer", "model"."""
    folder = Path(str(resources.files("vlm") / "configs"))
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        raise UserError(f"no packaged config {name!r}, expected one of {', '.join(known)}")
    return path


def _fields(kind: Any) -> dict[str, Any] | None:
    """Names and types of a section's keys; None if `kind` is not a section."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return None


def _refuse_unknown(values: Mapping[Any, Any], kind: Any, source: str, prefix: str = "") -> None:
    fields = _fields(kind)
    if fields is None:
        return
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"expected one of {', '.join(fields)}"
            raise UserError(f"{source}: unknown key {prefix}{key}; {hint}")
        if isinstance(value, Mapping):
            _refuse_unknown(value, fields[key], source, f"{prefix}{key}.")


def _refuse_endless(value: Any, source: str, key: str = "") -> None:
    names = _fields(type(value))
    if names is not None:
        for name in names:
            _refuse_endless(getattr(value, name), source, f"{key}.{name}" if key else name)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_endless(inner, source, key)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{source}: {key} is {value}, expected a finite number")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise UserError(f"{source}: {key} is {value:,}, expected at most {LARGEST:,}")


def _override(values: dict[str, Any], override: str, kind: Any) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"override {override!r} is not of the form section.key=value")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"override {override!r}: the value is no YAML") from error
    nested: Any = value
    for key in reversed(keys):
        nested = {key: nested}
    _refuse_unknown(nested, kind, f"override {override!r}")
    section = values
    for key in keys[:-1]:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise UserError(f"override {override!r}: {key} is a value, not a section")
    section[keys[-1]] = value


def differences(settings: Any, default: Any = None) -> dict[str, Any]:
    """The values of a settings dataclass that are not those of `default` (its own defaults), by dotted name."""
    default = type(settings)() if default is None else default
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value, usual = getattr(settings, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            found |= {f"{field.name}.{name}": inner for name, inner in differences(value, usual).items()}
        elif value != usual:
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


def without_paths(values: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The same values, those of `names` shortened to the last part of the path: a record names no machine's folders."""
    return {name: Path(value).name if name in names else value for name, value in values.items()}
