"""Exit codes of worker processes."""

DONE = 0
"""Every shard of the task has a receipt."""

FAILED = 1
"""A shard failed; its attempt record says why."""

USAGE = 2
"""The command line or a spec is wrong; nothing was computed."""

EXITED = 3
"""The user's code ended a check by `sys.exit`; what it printed last says why."""

INTERRUPTED = 75
"""A signal ended the work (EX_TEMPFAIL of sysexits.h); what was finished is kept."""
