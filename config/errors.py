"""The error tree of this folder. All of it is the user's to mend, so each message says how.

```
ConfigError
├── HomeError           the home folder cannot be used
├── ConfigSyntaxError   the file is not TOML, not UTF-8, or too large
├── UnknownKey          no such setting; says what was probably meant
├── BadValue            a setting has a value that it does not accept
└── NetworkFileError    a network file that is not one
```
"""


class ConfigError(Exception):
    """Base of everything that this folder raises on purpose."""


class HomeError(ConfigError):
    """The home folder is missing, is no folder, or has a path that cannot work."""


class ConfigSyntaxError(ConfigError):
    """The configuration file cannot be read as TOML."""


class UnknownKey(ConfigError):
    """A setting that does not exist. `key` is as it was written."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class BadValue(ConfigError):
    """A value of the wrong type or out of range. `key` names the setting."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class NotAccepted(ValueError):
    """Why a kind refuses a value; becomes a `BadValue` or a `NetworkFileError` with a place."""


class NetworkFileError(ConfigError):
    """A network file that is not one, or that names an impossible network."""
