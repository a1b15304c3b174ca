"""Beginnings of the scripts that tests write, as users write them."""

from __future__ import annotations

# What every script imports, and a provider of nothing, for runners that need no environment.
PROVIDER_OF_NOTHING = """
from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.run import submit_run


class Provider(EnvironmentProvider):
    def build_env_local(self):
        return {}


"""
