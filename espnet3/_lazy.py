"""Names and folders that are looked for when first used, so that `import espnet3` costs nothing.

A package's stub, the `__init__.pyi` beside its `__init__.py`, is the only place that says where its
public names come from. Type checkers and editors read it, and so does this module.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

_IMPORT = r"(?m)^from (\S+) import \(?\s*(\*|\w+)"  # of one name each
_DECLARED = r"(?m)^(\w+): "


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make a package's `__getattr__` (PEP 562) and `__dir__` from its stub.

    `__all__` is among the names that the first one knows: everything in the stub.

    Args:
        package: the package's `__name__`.

    Example:
        >>> import espnet3
        >>> "Run" in dir(espnet3)
        True
    """

    def __getattr__(name: str) -> Any:
        origins = _origins(package)
        if name == "__all__":
            value: Any = sorted(origins)
        elif name in origins:
            value = getattr(importlib.import_module(origins[name]), name)
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted(_origins(package))

    return __getattr__, __dir__


class OwnFirst(list[str]):
    """A package's `__path__`: its own folder, then the folders of packages of the same name.

    So ESPnet3's modules are found beside ours (decision 0030). The other folders are looked for
    where an import finds nothing in the own one, on `sys.path` as it is by then: a worker gets its
    submitter's after this package was imported.

    Args:
        package: the package's `__name__`.
        own: its `__path__`.

    Example:
        >>> import espnet3
        >>> espnet3.__path__[0] == next(iter(espnet3.__path__))
        True
    """

    def __init__(self, package: str, own: Iterable[str]) -> None:
        super().__init__(own)
        self._package = package

    def __iter__(self) -> Iterator[str]:
        yield from super().__iter__()
        for found in self._specs():
            for folder in (found and found.submodule_search_locations) or ():
                if folder not in self:
                    yield folder

    def _specs(self) -> Iterator[ModuleSpec | None]:
        """What each place has of the package's name, where an import takes the first one's."""
        from importlib.machinery import PathFinder  # which an import of ours never needs

        parent = self._package.rpartition(".")[0]
        for entry in [*(sys.modules[parent].__path__ if parent else sys.path)]:
            yield PathFinder.find_spec(self._package, [entry])
        for finder in [] if parent else sys.meta_path:  # setuptools' for `pip install -e`
            if finder is not PathFinder and hasattr(finder, "find_spec"):
                yield finder.find_spec(self._package, None)


@functools.cache
def _origins(package: str) -> dict[str, str]:
    """Public name -> the module that defines it, as the package's stub has it."""
    import re  # workers import this module, and need no public name

    module = sys.modules[package]
    loader: Any = module.__loader__  # which also reads what lies in a zip archive
    path = os.path.join(os.path.dirname(module.__file__ or ""), "__init__.pyi")
    stub = loader.get_data(path).decode()
    found = dict.fromkeys(re.findall(_DECLARED, stub), package)
    for origin, name in re.findall(_IMPORT, stub):
        names = importlib.import_module(origin).__all__ if name == "*" else [name]
        found |= dict.fromkeys(names, origin)
    return found
