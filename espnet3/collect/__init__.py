"""Afterwards: the state of a run, its verified results, its logs."""

from espnet3._lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
