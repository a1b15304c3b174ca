"""The persisted models, imported in as little time as it takes."""

from __future__ import annotations

from espnet3.startup import extension, stand_in


def load() -> None:
    """Import the models, for a process that no other module of espnet3's has begun to load.

    They are made of the schemas that an earlier worker kept, or else by pydantic, and kept then.

    Example:
        >>> load()
        >>> from espnet3.specs.models import RunSpec
    """
    extension.load()
    stand_in.load_for_orjson()
    from espnet3.startup import kept_schemas

    kept_schemas.load()
    with kept_schemas.in_place_of_pydantic():
        from espnet3.specs.models import NestedModel
    kept_schemas.keep(NestedModel)
