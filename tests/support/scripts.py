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

# Pools of processes in `forward`, of the start method that its one argument names.
POOL = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel

METHOD = sys.argv[1]

def double(x):
    return 2 * x

class Point:
    def __init__(self, x):
        self.x = x

def move(point):
    return Point(point.x + 1)

class Provider(EnvironmentProvider):
    def build_env_local(self):
        with multiprocessing.get_context(METHOD).Pool(1) as pool:  # there, too
            return {"one": pool.apply(double, [0.5])}

class Work(BaseRunner):
    @staticmethod
    def forward(idx, one):
        context = multiprocessing.get_context(METHOD)
        with context.Pool(1) as pool:
            doubled = pool.map(double, [idx, one])
            moved = pool.apply(move, [Point(idx)])
        with ProcessPoolExecutor(1, mp_context=context) as executor:
            return [*doubled, moved.x, executor.submit(double, idx).result()]

if __name__ == "__main__":
    local = Work(Provider({}))([1])
    set_parallel({"env": "local", "n_workers": 1})
    print(local == Work(Provider({}))([1]), local)
"""
