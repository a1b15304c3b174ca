"""The persisted model of a run that is being removed; see `espnet3.specs.models`.

Workers never load it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AwareDatetime, Field

from espnet3.specs.base import PersistedModel
from espnet3.specs.nested import ProcessIdentity


class Removal(PersistedModel):
    """Somebody removes the run (`removal.json`): the first file to come, and the last one to go.

    Without `run.json` beside it, the run is half removed, and good for nothing else.
    """

    title: ClassVar[str] = "removal"

    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    created: AwareDatetime
    by: ProcessIdentity
