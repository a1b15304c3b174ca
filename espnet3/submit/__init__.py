"""On the login node: plan, write specs, render and launch jobs; resume; cancel; remove."""

from espnet3._lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
