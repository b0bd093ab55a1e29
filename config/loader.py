"""Loading a node's settings: flag over environment over file over default, origins kept."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Final

from eigen.config.errors import BadValue, ConfigSyntaxError, UnknownKey
from eigen.config.paths import Paths
from eigen.config.schema import OPTIONS, SECTIONS, NodeConfig, Option
from eigen.config.toml_text import line_of, place

CONFIG_FILE_BYTES_MAX: Final = 1024 * 1024
"""A configuration file is read whole; a larger one is something else put there by mistake."""

VARIABLE_PREFIX: Final = "EIGEN_"


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and for each key (`p2p.listen`) where its value came from, in words."""

    config: NodeConfig
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Given:
    """One value that somebody gave, not yet checked."""

    key: str
    value: object
    origin: str
    base: Path  # what a relative path in it is relative to


def load(
    paths: Paths,
    *,
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Settings of the node in this home.

    `flags` maps keys such as `p2p.mdns` to text, as `--set` gives them; `environ` is the process's
    environment where it is left out. A missing file leaves the defaults. Raises
    `ConfigSyntaxError`, `UnknownKey` or `BadValue`; each names the setting, the place and what to
    write instead.
    """
    layers = (
        _from_file(paths.config_file),
        _from_environment(os.environ if environ is None else environ),
        _from_flags(flags or {}),
    )
    values = {key: option.default for key, option in OPTIONS.items()}
    origins = dict.fromkeys(OPTIONS, "default")
    for given in (given for layer in layers for given in layer):
        values[given.key] = _checked(OPTIONS[given.key], given)
        origins[given.key] = given.origin
    sections = {
        name: made(**{o.name: values[o.key] for o in OPTIONS.values() if o.section == name})
        for name, made in SECTIONS.items()
    }
    return Loaded(NodeConfig(**sections), MappingProxyType(origins))


def _checked(option: Option, given: _Given) -> object:
    try:
        return option.kind.parse(given.value, given.base)
    except ValueError as error:
        raise BadValue(
            f"{option.key} ({given.origin}): {error}; it must be {option.kind.accepts}", option.key
        ) from error


def _from_file(path: Path) -> Iterator[_Given]:
    text = _read(path)
    for section, table in _parse(path, text).items():
        if not isinstance(table, dict):
            where = place(path, line_of(text, section))
            if section in SECTIONS:
                raise BadValue(
                    f"{section} ({where}) is a section: write [{section}] and its settings "
                    "below it",
                    section,
                )
            raise _unknown(section, where)
        for name, value in table.items():
            key = f"{section}.{name}"
            origin = place(path, line_of(text, key))
            if key not in OPTIONS:
                raise _unknown(key, origin)
            yield _Given(key, value, origin, path.parent)
        if section not in SECTIONS:
            raise _unknown(section, place(path, line_of(text, section)))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigSyntaxError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > CONFIG_FILE_BYTES_MAX:
        raise ConfigSyntaxError(
            f"{path} is over {CONFIG_FILE_BYTES_MAX} bytes: not a configuration"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigSyntaxError(f"{place(path, line)}: not UTF-8 text") from error


def _parse(path: Path, text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigSyntaxError(f"{path}: not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigSyntaxError(f"{path}: not valid TOML: nested too deeply") from error


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Given]:
    """Variables named after settings. One that only looks like a setting's is a mistake.

    Other `EIGEN_` variables belong to somebody else, and are left alone.
    """
    variables = {option.variable: option for option in OPTIONS.values()}
    sections = tuple(f"{VARIABLE_PREFIX}{section.upper()}_" for section in SECTIONS)
    for name in sorted(environ):
        if not name.startswith(VARIABLE_PREFIX):
            continue
        if option := variables.get(name):
            value = option.kind.from_text(environ[name])
            yield _Given(option.key, value, f"environment {name}", Path.cwd())
        elif name.startswith(sections) or get_close_matches(name, variables, 1, 0.9):
            meant = get_close_matches(name, variables, 1, 0.5)
            hint = f"; did you mean {meant[0]}?" if meant else ""
            raise UnknownKey(f"the environment variable {name} is no setting{hint}", name)


def _from_flags(flags: Mapping[str, str]) -> Iterator[_Given]:
    for key, text in flags.items():
        option = OPTIONS.get(key)
        if option is None:
            raise _unknown(key, f"--set {key}")
        yield _Given(key, option.kind.from_text(text), f"--set {key}", Path.cwd())


def _unknown(key: str, where: str) -> UnknownKey:
    """What to say of a key or section that does not exist: the nearest one, or all there are."""
    section, _, name = key.partition(".")
    if not name:
        meant = [f"[{near}]" for near in get_close_matches(section, SECTIONS, 1, 0.6)]
        meant += [near for near, option in OPTIONS.items() if option.name == section]
        known = f"sections are {', '.join(SECTIONS)}"
    else:
        same_name = [near for near, option in OPTIONS.items() if option.name == name]
        meant = same_name or get_close_matches(key, OPTIONS, 1, 0.6)
        of_section = [o.name for o in OPTIONS.values() if o.section == section]
        known = (
            f"[{section}] has {', '.join(of_section)}"
            if of_section
            else f"sections are {', '.join(SECTIONS)}"
        )
    hint = f"did you mean {meant[0]}?" if meant else known
    return UnknownKey(f"{where}: there is no setting {key}; {hint}", key)
