"""Nested configuration dataclasses as YAML files (of which JSON is a part)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import yaml

from guidedvd_ns.training.files import write_text

Config = TypeVar("Config")


def write_config(config: Any, path: Path) -> None:
    """Write every option of a dataclass to a YAML file that `read_config` reads back."""
    write_text(path, yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False))


def read_config(kind: type[Config], path: Path) -> Config:
    """Options from a file; those that it leaves out keep their defaults.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has an option that does not exist, or lacks one that has no default.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no config file {path}; check the path, or leave it out.")
    return _filled(kind, yaml.safe_load(path.read_text()) or {}, str(path))


def _filled(kind: Any, values: dict[str, Any], where: str) -> Any:
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - set(fields)):
        raise ValueError(f"{where} has unknown options {unknown}; those that exist are {sorted(fields)}.")
    filled = {}
    for name, value in values.items():
        nested = fields[name].default_factory
        if dataclasses.is_dataclass(nested):
            filled[name] = _filled(nested, value, f"{where}, {name}")
        else:
            filled[name] = _typed(value, is_path="Path" in str(fields[name].type))
    try:
        return kind(**filled)
    except TypeError as error:
        raise ValueError(f"{where} is incomplete: {error}.") from error


def _typed(value: Any, is_path: bool) -> Any:
    if isinstance(value, list):
        return tuple(_typed(entry, is_path) for entry in value)
    return Path(value) if isinstance(value, str) and is_path else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
