"""The user's classes, values and variables: written down where they are, made again elsewhere."""
