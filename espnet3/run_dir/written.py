"""Where the output of a run with writers is made, and whether that folder is the run's to use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from espnet3.checksums import checksum
from espnet3.errors import EspnetError, OutputError
from espnet3.run_dir.directory import RunDirectory
from espnet3.specs.models import RunSpec, WritersSpec
from espnet3.user_code.manifest import (
    MANIFEST,
    Manifest,
    ManifestShard,
    read_manifest,
    require_same,
    shard_folders,
    write_manifest,
)

_PLAN = "plan"  # whose checksum a run's manifest has in place of the parts that local mode has


def output_folder(run: RunSpec) -> str:
    """The folder that the shards' folders of a run with writers are in, as an absolute path.

    Raises:
        ValueError: it has no writers.
    """
    writers = _writers(run)
    return os.path.normpath(
        os.path.join(run.working_directory, writers.output_dir, writers.shard_subdir)
    )


def require_own_output(directory: RunDirectory, run: RunSpec) -> bool:
    """Refuse an output folder whose shards are of another origin.

    What a run left there that was removed since is nobody's, and what it left before its run
    directory was moved is its own. A run of the same plan is another one: what it computes with may
    have changed since, as a model's file does.

    Returns:
        Whether its manifest is this run's already.

    Raises:
        OutputError: it holds what local mode, ESPnet3 or another run has written.
    """
    root, here = Path(output_folder(run)), _manifest(directory, run)
    there = read_manifest(root)
    if there is None:
        folders = (root / name for name in shard_folders(root))
        found = next((each for each in folders if not each.is_symlink()), None)
        if found is not None:
            raise OutputError(
                os.fspath(found),
                f"is a shard's folder that this run has not made ({directory.root} is its run "
                "directory); choose another output_dir, or move it away",
            )
        return False
    if there.run == here.run:
        return there.fingerprint == here.fingerprint
    if there.run is None or _holds_another(there.run, run):
        require_same(root, there, here)
    return False


def own_output(directory: RunDirectory, run: RunSpec) -> None:
    """Say in the output folder of which run it is, where that does not stand there.

    Raises:
        OutputError: it is another one's, or cannot be written.
    """
    if not require_own_output(directory, run):
        write_manifest(Path(output_folder(run)), _manifest(directory, run))


def note_merged(directory: RunDirectory, run: RunSpec, generations: Mapping[int, int]) -> None:
    """Note in the output folder which receipts were merged there, for who asks what is to do.

    Args:
        directory: the run directory.
        run: its run.json.
        generations: rank -> generation of the receipt; of no use unless these are all shards.
    """
    merged = _these(run, generations) if len(generations) == run.world_size else None
    manifest = _manifest(directory, run).model_copy(update={"merged": merged})
    with contextlib.suppress(OutputError):  # what was merged is no worse for that
        write_manifest(Path(output_folder(run)), manifest)


def merged_into(
    directory: RunDirectory, run: RunSpec, generations: Mapping[int, int]
) -> str | None:
    """The output folder that some receipts were merged into; None where others were, or none."""
    these = _these(run, generations)
    for folder in _outputs(directory):
        there = None
        with contextlib.suppress(OutputError):
            there = read_manifest(Path(folder))
        if there is not None and there.merged == these:
            return folder
    return None


def _these(run: RunSpec, generations: Mapping[int, int]) -> str:
    words = (f"{rank}.{generation}" for rank, generation in sorted(generations.items()))
    return checksum(" ".join((run.run_id, *words)).encode())


def output_that_links_to(directory: RunDirectory) -> str | None:
    """The output folder whose shards are links into a run directory; None where there is none.

    What the runner's `merge` has made there may name files that only the run directory holds.
    """
    return next((folder for folder in _outputs(directory) if _links_into(directory, folder)), None)


def clear_output(directory: RunDirectory) -> None:
    """Before a run is removed, remove what would lead nowhere: its `split.N`, and its manifest.

    What `merge` has made stays, and so do copies of shards' folders, with the manifest, which says
    that they are nobody's by then.

    Raises:
        OutputError: something cannot be removed.
    """
    for folder in _outputs(directory):
        links = _links_into(directory, folder)
        try:
            for path in links:
                _unlink(path)
            named = _is_named(directory, folder, moved=bool(links))
            if named and not _shard_folders(folder):
                _unlink(os.path.join(folder, MANIFEST))
        except OSError as error:
            problem = f"cannot be removed ({error.strerror})"
            raise OutputError(str(error.filename or folder), problem) from None


def _outputs(directory: RunDirectory) -> list[str]:
    """Where the output folder of a run may be; nowhere where it has none, or is none any more."""
    run = directory.run_if_there()
    if run is None or run.writers is None:
        return []
    # Where both were moved together, the run directory still lies in it.
    above = os.path.dirname(os.path.realpath(directory.root))
    return [*dict.fromkeys((output_folder(run), above))]


def _links_into(directory: RunDirectory, folder: str) -> list[str]:
    """The shards' folders of an output folder that are links into a run directory."""
    root = os.path.realpath(directory.root)
    links = filter(os.path.islink, (f"{folder}/{name}" for name in _shard_folders(folder)))
    return [link for link in links if os.path.realpath(link).startswith(f"{root}/")]


def _is_named(directory: RunDirectory, folder: str, *, moved: bool) -> bool:
    """Whether the manifest of an output folder is a run's; it names where that was once."""
    there = None
    with contextlib.suppress(OutputError):  # whatever it is, it is not the run's
        there = read_manifest(Path(folder))
    run_dir = None if there is None else there.run
    return run_dir == directory.root or (moved and run_dir is not None)


def _shard_folders(folder: str) -> list[str]:
    with contextlib.suppress(OutputError):  # who may not list it does not use it
        return shard_folders(folder)
    return []


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _manifest(directory: RunDirectory, run: RunSpec) -> Manifest:
    """The manifest of a run, whose shards' specs have the items."""
    writers = _writers(run)
    return Manifest(
        output_dir=writers.output_dir,
        shard_subdir=writers.shard_subdir,
        shards=[ManifestShard(shard_id=rank, items=[]) for rank in range(run.world_size)],
        fingerprint={_PLAN: run.fingerprint},
        run=directory.root,
    )


def _holds_another(run_dir: str, run: RunSpec) -> bool:
    """Whether a run directory holds a run that is not this one."""
    try:
        there = RunDirectory.open(run_dir).run_if_there()
    except EspnetError:  # perhaps it cannot be asked from here
        return True
    return there is not None and there.run_id != run.run_id


def _writers(run: RunSpec) -> WritersSpec:
    if run.writers is None:
        raise ValueError("the run has no writers")
    return run.writers
