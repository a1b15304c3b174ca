"""A store: the few file operations that a run needs, on paths and in object stores."""
