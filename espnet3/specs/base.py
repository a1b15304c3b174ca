"""What persisted models are written with: pydantic, or in a worker what stands in for it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from espnet3.startup import compiled

if TYPE_CHECKING or not compiled.is_loaded():
    from pydantic import (
        AfterValidator,
        AwareDatetime,
        BaseModel,
        ConfigDict,
        Field,
        JsonValue,
        model_validator,
    )

    class Part(BaseModel):
        """Base of all persisted models and of the models inside them: frozen, nothing unknown."""

        model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

else:

    def _known(*args: Any, **kwargs: Any) -> None:
        """Nothing: the kept schemas hold it already."""

    AfterValidator = Field = _known
    AwareDatetime, JsonValue, Part = datetime, Any, compiled.CompiledPart

    def model_validator(*, mode: str) -> Any:
        """The method as it is; the kept schemas call it by its name."""
        return lambda method: method


class PersistedModel(Part):
    """A model with a file of its own.

    A change of what is in the file gets a new `schema_version`; the older ones stay readable.

    Attributes:
        title: of its JSON Schema.
        version: the `schema_version` that is written.
        MOST_BYTES: that its file may have. Readers refuse more, since any number may stand in a
            folder, and many are read at the same time.
    """

    title: ClassVar[str]
    version: ClassVar[int] = 1
    MOST_BYTES: ClassVar[int] = 1 << 20
    schema_version: Literal[1] = 1


__all__ = [
    "AfterValidator",
    "AwareDatetime",
    "Field",
    "JsonValue",
    "Part",
    "PersistedModel",
    "model_validator",
]
