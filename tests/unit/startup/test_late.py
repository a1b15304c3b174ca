"""`dataclasses` without `inspect` and `uuid` without `platform`, for everybody else as ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LATE = """
import sys
from espnet3.startup.late import import_for_worker
import_for_worker()
import dataclasses
assert "inspect" not in sys.modules
import orjson
assert not {"ast", "inspect", "platform"} & set(sys.modules)
"""
USE = """
@dataclasses.dataclass(order=True, slots=True)
class Pair:
    first: int
    second: list[str] = dataclasses.field(default_factory=list)
print(Pair.__doc__, Pair(1) < Pair(2), orjson.dumps(Pair(3, ["x"])).decode())
import inspect
assert inspect.__file__ and sys.modules["inspect"] is inspect
assert type(inspect).__name__ == "module"
assert inspect.signature is dataclasses.inspect.signature
import platform, uuid
assert uuid._LINUX is (platform.system() == "Linux") and uuid._AIX is (platform.system() == "AIX")
assert type(platform).__name__ == "module" and uuid.platform.node is platform.node
print(len(str(uuid.uuid1())), uuid.uuid5(uuid.NAMESPACE_DNS, "x"))
"""
THREADS = """
import threading
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


def test_dataclasses_work_as_ever() -> None:
    plain = "import sys, dataclasses, orjson\n"
    assert run(LATE + USE) == run(plain + USE)


def test_also_where_threads_are_the_first_to_make_some() -> None:
    assert run(LATE + THREADS) == run("import dataclasses\n" + THREADS)


def test_where_inspect_is_there_it_stays() -> None:
    code = "import inspect\nfrom espnet3.startup.late import import_for_worker\n"
    run(code + "import_for_worker()\nimport sys\nassert sys.modules['inspect'] is inspect\n")


def test_what_is_asked_during_the_import_is_answered(tmp_path: Path) -> None:
    (tmp_path / "asking.py").write_text("import string\ndigits = string.digits\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
sys.modules.pop("string", None)
from espnet3.startup.late import Late, import_with
import_with("asking", Late("string"))
import asking, string
print(asking.digits, type(string).__name__)
"""
    assert run(code) == "0123456789 module\n"
