"""numpy, loaded late: it takes most of the start, and the engine reads records without it."""

from __future__ import annotations

import gc
import resource
import sys
import threading
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_lock = threading.RLock()  # a second thread waits until the first one has loaded a module
_late: list[_LateModule] = []  # those that are not loaded yet


class _LateModule(ModuleType):
    """A module that runs when an attribute of it is first used."""

    # Not importlib's LazyLoader: its modules run as soon as they are imported a second time.
    def __getattr__(self, name: str) -> Any:
        self.load()
        return ModuleType.__getattribute__(self, name)

    def load(self) -> None:
        with _lock:
            if self not in _late:  # loaded; or it looks for an attribute of its own while it loads
                return
            spec = self.__spec__
            assert spec is not None and spec.loader is not None
            _late.remove(self)
            if spec.submodule_search_locations is not None:
                self.__path__ = spec.submodule_search_locations
            try:
                spec.loader.exec_module(self)
            except BaseException:
                _late.append(self)
                raise
            self.__class__ = ModuleType  # type: ignore[assignment]


def put_off_numpy() -> None:
    """Let ``import`` of numpy return at once; its first use, or ``load_numpy``, loads it.

    If the address space is limited, numpy is loaded first: threads would take the room it needs.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return
    for name in ("numpy", "blkiomon.engine.layout"):  # layout makes dtypes
        if name in sys.modules:  # it is loaded already
            continue
        spec = find_spec(name)
        if spec is None:  # it is not installed: importing it raises ImportError
            continue
        module = module_from_spec(spec)
        vars(module).pop("__path__", None)  # an import of a submodule looks for it: that loads it
        module.__class__ = _LateModule
        assert isinstance(module, _LateModule)
        _late.append(module)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def load_numpy() -> None:
    """Load numpy, if ``put_off_numpy`` has put it off.

    Runs call this soon after the start: an upgrade could replace numpy during a long interval.
    """
    if _late:
        gc.disable()  # collecting garbage during the import would take a tenth of its time
        for module in [*_late]:
            module.load()
        gc.freeze()
        gc.enable()
