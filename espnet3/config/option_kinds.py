"""Options of dask-jobqueue by their kinds, for what reads YAML and what checks them."""

from __future__ import annotations

LISTS = frozenset({
    "cancel_command_extra", "env_extra", "extra", "header_skip", "job_directives_skip",
    "job_extra", "job_extra_directives", "job_script_prologue", "submit_command_extra",
    "worker_extra_args",
})  # fmt: skip
"""Lists of text; HTCondor's directives are a mapping."""

TEXTS = frozenset({
    "account", "config_name", "interface", "job_name", "local_directory", "log_directory",
    "lsf_units", "memory_per_core_property_name", "project", "protocol", "python", "queue",
    "resource_spec", "shebang", "walltime", "worker_command",
})  # fmt: skip
SIZES = frozenset({"disk", "job_mem", "memory"})
COUNTS = frozenset({"job_cpu", "mem", "ncpus"})
SWITCHES = frozenset({"nanny", "use_stdin"})

WRITTEN = LISTS | TEXTS | SIZES
"""Options that are what stands in a file, whatever YAML makes of it: `0123`, `1e3`, `on`."""

RENAMED = {
    "env_extra": "job_script_prologue",
    "extra": "worker_extra_args",
    "header_skip": "job_directives_skip",
    "job_extra": "job_extra_directives",
}
"""Old name -> the name that dask-jobqueue has now, which counts where both are set."""
