"""Worker processes of this host import the script that starts them: is its own work guarded?"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FrameType

import dask

from espnet3.errors import UsageError


def require_main_guard() -> None:
    """Refuse a call that every worker process would repeat when it imports the script.

    `multiprocessing` has its children import the main module, unless they are forked
    (https://docs.python.org/3/library/multiprocessing.html, "Safe importing of main module"). A
    call at the top level of a script without `if __name__ == "__main__":` would start workers in
    the workers. A script has no guard where nothing up to the calling statement has `__name__`.

    Raises:
        UsageError: names the script and the line.
    """
    if dask.config.get("distributed.worker.multiprocessing-method", "spawn") == "fork":
        return
    found = unguarded_call()
    if found is not None:
        script, line = found
        raise UsageError(
            f'{script}:{line}: put this call below `if __name__ == "__main__":`, since each worker '
            "process imports the script and would call it again"
        )


def unguarded_call() -> tuple[Path, int] | None:
    """The script and its line where this call stands at the top level, without a guard; or None."""
    calling = _calling_line()
    if calling is None:
        return None
    script, line = calling
    try:
        statements = ast.parse(script.read_bytes()).body
    except (OSError, SyntaxError, ValueError):  # it was replaced since
        return None
    before = [statement for statement in statements if statement.lineno <= line]
    names = (node for statement in before for node in ast.walk(statement))
    guarded = any(isinstance(node, ast.Name) and node.id == "__name__" for node in names)
    return None if guarded else calling


def _calling_line() -> tuple[Path, int] | None:
    """The script, and its line at the top level that is being executed; None where there is none.

    A notebook or a prompt has no script, and a package's `__main__` is not imported by children.
    """
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    spec = getattr(main, "__spec__", None)
    if file is None or (spec is not None and spec.name.endswith("__main__")):
        return None
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals is vars(main):
            return Path(file), frame.f_lineno
        frame = frame.f_back
    return None
