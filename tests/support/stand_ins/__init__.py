"""Stand-ins for batch systems of which no server can be had: strict at their commands' syntax.

`batch` is what all share: a queue in a folder and a server that runs its tasks as local processes.
Each other module is one batch system's commands, as its manual describes them.
"""
