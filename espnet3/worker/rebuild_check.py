"""`python -m espnet3.worker.rebuild_check RESULT [build] < run.json`: can all be rebuilt here?

Used before a submission, in a process that shares nothing with the submitter. Its finding, one line
or nothing where all is well, goes to the file RESULT, since the user's modules may print anything;
without that file the check did not come to its end. Plain values that the provider has then go to
RESULT.held, for the submitter to compare with its own, and the user's source files that were loaded
to RESULT.sources. With `build` the environment is built, too.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from espnet3.worker import models


def main(argv: list[str]) -> int:
    """Rebuild provider and runner from the RunSpec on standard input."""
    models.load()  # as a worker does, or the import of pydantic would be most of the check
    from espnet3.errors import EspnetError
    from espnet3.redaction import scrubbed
    from espnet3.run_dir.secrets import remember_run
    from espnet3.specs.models import RunSpec, decode
    from espnet3.user_code.plain_attributes import encode_held, plain_attributes
    from espnet3.user_code.sources import loaded_sources
    from espnet3.worker import exit_codes
    from espnet3.worker.environment import environment_of, tell_world
    from espnet3.worker.rebuild import enter_submitter_process, rebuild

    [result, *build] = argv
    try:
        run = decode(RunSpec, sys.stdin.buffer.read(), "run.json")
        remember_run(run)
        enter_submitter_process(run)
        _, provider = rebuild(run)
        held = encode_held(plain_attributes(provider))
        if build:
            tell_world(run, 0)
            environment_of(run, provider)
    except EspnetError as error:
        if isinstance(error.__cause__, SystemExit) and not isinstance(error.__cause__.code, str):
            # argparse, say, which has printed what is wrong: "SystemExit: 2" would hide that.
            Path(result).write_text(scrubbed(str(error)))
            return exit_codes.EXITED
        if error.__cause__ is not None:
            trace = traceback.format_exception(error.__cause__)
            print(scrubbed("".join(trace)), file=sys.stderr)
        Path(result).write_text(scrubbed(str(error)))
        return exit_codes.FAILED
    Path(f"{result}.held").write_text(held)
    Path(f"{result}.sources").write_text(json.dumps(loaded_sources(run)))
    Path(result).write_text("")
    return exit_codes.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
