"""An old name of `espnet3.parallel.env_provider`."""

from espnet3.parallel.env_provider import EnvironmentProvider as EnvironmentProvider

__all__ = ["EnvironmentProvider"]
