"""The persisted model of the code that a run was submitted with; see `espnet3.specs.models`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import AwareDatetime, Field, model_validator

from espnet3.specs.base import NestedModel, PersistedModel
from espnet3.specs.nested import Checksum, Count, ProcessIdentity, Text


class SourceFile(NestedModel):
    """A source file: `name`, relative to a folder of the record's `roots`, and its contents."""

    root: Count
    name: str
    sha256: Checksum
    size: Count


class CodeRecord(PersistedModel):
    """The user's own source files, as they were at a submission (`code/0001.json`).

    No folder of `roots` lies in another one. `import_path` are the folders in which Python found
    the modules. With `snapshot`, copies of the files are in `code/0001/<root>/<name>`.
    """

    title: ClassVar[str] = "code"
    MOST_BYTES: ClassVar[int] = 1 << 26

    number: Annotated[int, Field(ge=1)]
    created: AwareDatetime
    by: ProcessIdentity
    roots: list[str]
    import_path: list[str]
    files: Annotated[list[SourceFile], Field(min_length=1)]
    git_commit: Text | None = None
    snapshot: bool = False

    def path_of(self, file: SourceFile) -> str:
        """Where a file was."""
        return f"{self.roots[file.root].rstrip('/')}/{file.name}"

    @model_validator(mode="after")
    def _files_lie_in_the_roots(self) -> Self:
        # A worker makes files of these names.
        for position, file in enumerate(self.files):
            steps = file.name.split("/")
            if file.root >= len(self.roots) or {"", ".", ".."} & {*steps} or "\0" in file.name:
                raise ValueError(f"files.{position}: does not lie in a folder of roots")
        return self
