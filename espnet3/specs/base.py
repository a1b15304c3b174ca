"""What all persisted models have in common."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict


class NestedModel(BaseModel):
    """Base of all persisted models and of the models inside them: frozen, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PersistedModel(NestedModel):
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
