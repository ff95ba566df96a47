"""`--config FILE`: flags in a YAML file, by vLLM's rules.

A key is a flag without its dashes (underscores will do), `model` is the argument. Flags given on
the command line win over the file, the file over the defaults. Scalars keep the text they were
written with, so that a flag reads `32k` or `0.92` alike from both. Every error names file, line and
key.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
import yaml

from argosy.errors import ConfigError

ENDINGS = (".yaml", ".yml")
NOT_IN_A_FILE = ("config",)
_TAG = "tag:yaml.org,2002:"


class Settings(dict[str, Any]):
    """Values by parameter, as typer takes them. places: of each the file, line and key."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, str] = {}


def read_config_file(path: Path, command: Any) -> Settings:
    """The parameters a file gives to a command.

    Raises ConfigError for a file that cannot be read, an unknown or repeated key, a value of the
    wrong kind. Whether text is a number, say, typer finds out: then `blamed` names the place.
    """
    keys = _keys(command)
    settings = Settings()
    for key_node, value_node in _entries(path):
        where = f"{path}:{key_node.start_mark.line + 1}"
        key = str(key_node.value).replace("_", "-")
        if key not in keys:
            raise ConfigError(f"{where}: unknown key {key_node.value!r}; {_nearest(key, keys)}")
        option, positive = keys[key]
        if option.name in settings:
            raise ConfigError(f"{where}: {key} is given twice; keep one of the two")
        settings.places[option.name] = f"{where}: {key}"
        value = _value(option, value_node, settings.places[option.name])
        settings[option.name] = value if positive else not value
    return settings


@contextmanager
def blamed(ctx: typer.Context) -> Iterator[None]:
    """Turn typer's complaint about a value of the file into a ConfigError with its place."""
    try:
        yield
    except typer.BadParameter as exc:
        name = (exc.param and exc.param.name) or ""
        source = getattr(ctx.get_parameter_source(name), "name", "")
        if source != "DEFAULT_MAP" or not isinstance(ctx.default_map, Settings):
            raise
        value = repr(ctx.default_map[name])
        said = exc.message if value in exc.message else f"{value}: {exc.message}"
        raise ConfigError(f"{ctx.default_map.places[name]}: {said}") from exc


def _keys(command: Any) -> dict[str, tuple[Any, bool]]:
    """Parameters by key; False with those that switch something off."""
    options = [p for p in command.params if p.name not in NOT_IN_A_FILE]
    found = {name.lstrip("-"): (p, True) for p in options for name in p.opts}
    return found | {name.lstrip("-"): (p, False) for p in options for name in p.secondary_opts}


def _entries(path: Path) -> list[tuple[Any, Any]]:
    """Key and value nodes of the file's one mapping; none of an empty file."""
    if path.suffix not in ENDINGS:
        raise ConfigError(f"{path} does not end in {' or '.join(ENDINGS)}; give a YAML file")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as exc:
        said = " ".join(str(exc).split())
        raise ConfigError(f"{path} is not YAML: {said}; correct it") from exc
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path} holds no `key: value` lines; write flags as `port: 8000`")
    return list(root.value)


def _value(option: Any, node: Any, where: str) -> Any:
    """What a node says: a truth for a switch, text, texts for a list, JSON where it is wanted."""
    if option.metavar == "JSON":
        return json.dumps(yaml.SafeLoader("").construct_object(node, deep=True))
    if node.tag == f"{_TAG}null":
        raise ConfigError(f"{where} has no value; give one, or leave the key out")
    if getattr(option, "is_flag", False):
        if node.tag != f"{_TAG}bool":
            raise ConfigError(f"{where}: {_shown(node)} is neither true nor false")
        return yaml.SafeLoader("").construct_object(node)
    multiple = getattr(option, "multiple", False)
    if multiple and isinstance(node, yaml.SequenceNode):
        return [_text(item, where) for item in node.value]
    return [_text(node, where)] if multiple else _text(node, where)


def _text(node: Any, where: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{where} takes one value, not {_shown(node)}")
    return str(node.value)


def _shown(node: Any) -> str:
    return {"sequence": "a list", "mapping": "a mapping"}.get(node.id, repr(node.value))


def _nearest(key: str, keys: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, keys, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return "keys are the flags of `argosy serve --help` without their dashes"
