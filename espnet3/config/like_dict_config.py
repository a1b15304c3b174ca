"""Reading a model as ESPnet3's code reads an OmegaConf DictConfig."""

from __future__ import annotations

from collections.abc import KeysView
from typing import Any

from pydantic import BaseModel


class Options(dict[str, Any]):
    """A dict whose keys are attributes, too: `options.queue`.

    Example:
        >>> Options(queue="gpu", scheduler_options={"port": 8786}).scheduler_options.port
        8786
    """

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(f"there is no option {name!r}") from None
        return Options(value) if type(value) is dict else value


class LikeDictConfig(BaseModel):
    """A model whose fields are keys, too.

    Example:
        >>> class Size(LikeDictConfig):
        ...     width: int = 3
        >>> Size()["width"], Size().get("height", 1), "height" in Size()
        (3, 1, False)
    """

    def keys(self) -> KeysView[str]:
        """The names of the fields."""
        return type(self).model_fields.keys()

    def get(self, key: str, default: Any = None) -> Any:
        """A field, or the default where there is none of that name."""
        return getattr(self, key) if key in self else default

    def __contains__(self, key: object) -> bool:
        return key in type(self).model_fields

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(key)
        return getattr(self, key)
