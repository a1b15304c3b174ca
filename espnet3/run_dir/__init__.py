"""A run directory: whom to trust, what its records say, and whether results are what they claim."""
