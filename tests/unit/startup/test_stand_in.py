"""`dataclasses` without `inspect` and `uuid` without `platform`, for everybody else as ever."""

from __future__ import annotations

import subprocess
import sys

LIGHT = """
import sys
from espnet3.startup import stand_in
stand_in.load_for_orjson()
import orjson
assert not {"inspect", "platform"} & set(sys.modules)
import dataclasses, threading, uuid
"""
PLAIN = "import orjson, dataclasses, threading, uuid"
USE = """
@dataclasses.dataclass(order=True, slots=True)
class Pair:
    first: int
    second: list[str] = dataclasses.field(default_factory=list)
print(Pair.__doc__, Pair(1) < Pair(2), orjson.dumps([Pair(3, ["x"]), uuid.UUID(int=5)]).decode())
import inspect, platform
print(inspect.getsource(inspect.signature)[:15], platform.system())
assert inspect.signature is dataclasses.inspect.signature
assert uuid._LINUX is (platform.system() == "Linux") and uuid._AIX is (platform.system() == "AIX")
print(len(str(uuid.uuid1())), uuid.uuid5(uuid.NAMESPACE_DNS, "x"))
"""
THREADS = """
together, names = threading.Barrier(8), []
def use():
    together.wait()
    names.append(dataclasses.make_dataclass("Made", ["x"]).__doc__)
threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(set(names))
"""


def run(code: str) -> str:
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_they_work_as_ever() -> None:
    assert run(LIGHT + USE) == run(PLAIN + USE)


def test_also_where_threads_are_the_first_to_make_dataclasses() -> None:
    assert run(LIGHT + THREADS) == run(PLAIN + THREADS)


def test_what_is_there_already_stays() -> None:
    code = "import inspect, sys\nfrom espnet3.startup import stand_in\nstand_in.load_for_orjson()\n"
    run(code + "import dataclasses\nassert sys.modules['inspect'] is dataclasses.inspect\n")
