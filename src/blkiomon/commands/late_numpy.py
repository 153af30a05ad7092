"""numpy, loaded late: it takes most of the start, and the engine reads records without it."""

from __future__ import annotations

import gc
import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


class _LateModule(ModuleType):
    """A module that runs when an attribute of it is first used."""

    # Not importlib's LazyLoader: its modules run as soon as they are imported a second time.
    def __getattr__(self, name: str) -> Any:
        self._run()
        return getattr(self, name)

    def _run(self) -> None:
        assert self.__spec__ is not None and self.__spec__.loader is not None
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__spec__.loader.exec_module(self)


def put_off_numpy() -> None:
    """Let ``import`` of numpy return at once; its first use, or ``load_numpy``, loads it.

    Only for runs with one thread until then.
    """
    for name in ("numpy", "blkiomon.engine.layout"):  # layout makes dtypes
        if name in sys.modules or (spec := find_spec(name)) is None:
            continue  # loaded already; or missing, which its import reports
        module = module_from_spec(spec)
        module.__class__ = _LateModule
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def load_numpy() -> None:
    """Load what was put off; later, after an hour-long interval, an upgrade may have removed it."""
    late = [module for module in sys.modules.values() if isinstance(module, _LateModule)]
    if late:
        gc.disable()  # garbage collection of what is imported would take a tenth of the time
        for module in late:
            module._run()
        gc.freeze()
        gc.enable()
