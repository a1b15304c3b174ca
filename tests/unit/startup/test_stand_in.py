"""What is imported without some of what it imports is, for everybody else, as ever."""

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


IN_C = """
import sys
from espnet3.startup import stand_in
with stand_in.parts_in_c():
    import datetime as half_datetime, pickle as half_pickle
    from datetime import UTC, datetime
    assert sys.modules["pickle"] is half_pickle
    for name in ("_Pickler", "__path__"):
        assert not hasattr(half_pickle, name)
assert "pickle" not in sys.modules
"""


def test_parts_in_c_are_parts_of_the_whole() -> None:
    code = IN_C + (
        "import datetime as whole, pickle\n"
        "assert (whole.datetime, whole.UTC) == (datetime, UTC)\n"
        "assert pickle is not half_pickle and pickle.Pickler is half_pickle.Pickler\n"
        "assert pickle.loads(half_pickle.dumps(whole.datetime.now(UTC))).tzinfo is UTC\n"
    )
    run(code)


def test_a_part_asks_the_whole_for_what_is_not_in_c() -> None:
    code = IN_C + (
        "assert half_pickle.HIGHEST_PROTOCOL == 5\n"
        "import pickle\n"
        "assert half_pickle._Pickler is pickle._Pickler\n"
    )
    run(code)


def test_a_whole_that_is_there_already_stays() -> None:
    code = (
        "import pickle, sys\nfrom espnet3.startup import stand_in\n"
        "with stand_in.parts_in_c():\n"
        "    assert sys.modules['pickle'] is pickle\n"
    )
    run(code)
