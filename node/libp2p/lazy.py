"""Lets submodules of `libp2p` be imported without its `__init__`, which loads every transport.

`import libp2p` costs 0.5 s and 55 MB (QUIC, WebSockets, metrics); the parts used here need a tenth.
Whoever asks the package itself for a name, as in `from libp2p import new_host`, still gets it: the
real `__init__` runs then.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any


class _LazyPackage(ModuleType):
    """A package whose `__init__` runs when a name is missed for the first time."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.__dict__.get("_eigen_loaded"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__dict__["_eigen_loaded"] = True
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(self)
        return getattr(self, name)


def install() -> None:
    """Put the lazy package in place unless `libp2p` is imported already."""
    if "libp2p" in sys.modules:
        return
    spec = importlib.util.find_spec("libp2p")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("libp2p is not installed; run `pip install libp2p==0.8.1`")
    package = _LazyPackage("libp2p")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    package.__file__ = spec.origin
    package.__package__ = "libp2p"
    sys.modules["libp2p"] = package
