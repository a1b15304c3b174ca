"""One run of the soak with real processes, on `env: local`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from espnet3.errors import DamagedResult, EspnetError, FailedItems, SubmissionRefused
from espnet3.run import Run
from espnet3.specs import layout
from espnet3.specs.models import Receipt, RunSpec, decode
from tests.chaos.soak_work import BEGUN, MENDED, PLAN, RUN, answer, submit
from tests.chaos.tally import Tally
from tests.support.faulty_store import VARIABLE, Faults, faults_environment, injected
from tests.support.helpers import ROOT

LONGEST = 120.0  # seconds that anything may take
TRIES = 15  # resumes without a fault after which a run is given up


class Wrong(Exception):
    """A promise was broken."""


class RealRun:
    """A run, what is done to it, and what is known of it.

    Args:
        folder: an empty folder.
        rng: decides everything.
        tally: counts.
        patch: not used: real processes need none.
    """

    def __init__(
        self,
        folder: Path,
        rng: random.Random,
        tally: Tally,
        patch: pytest.MonkeyPatch | None = None,
    ) -> None:
        self.folder, self.rng, self.tally = folder, rng, tally
        self.run_dir = folder / RUN
        self.run = Run(self.run_dir)
        self.n_items, self.n_shards = rng.randint(8, 24), rng.randint(2, 4)
        self.longest = LONGEST
        self.failing = rng.sample(range(self.n_items), rng.choice((0, 0, 1, 2)))
        self.on_error = rng.choice(("stop", "record"))
        parallel = {
            "env": "local",
            "n_workers": 2,
            "n_shards": self.n_shards,
            "on_error": self.on_error,
            "checkpoint_every": 0.05,
            "preflight": False,
            **self.schedule(),
        }
        plan: dict[str, Any] = {"items": self.n_items, "pace": rng.choice((0.005, 0.02, 0.05))}
        plan |= {"failing": self.failing, "parallel": parallel}
        (folder / PLAN).write_text(json.dumps(plan))
        self.damaged: set[str] = set()
        self.seen: dict[str, bytes] = {}
        self.durable: set[int] = set()
        self.looked_at = 0  # of the file `begun`
        tally.runs += 1
        tally.shards += self.n_shards
        tally.items += self.n_items
        tally.faults["item that fails"] += len(self.failing)

    def schedule(self) -> dict[str, Any]:
        """What of the parallel config tells who gets which shard."""
        return {"shards_per_job": self.rng.choice((1, 2))}

    def whole(self) -> None:
        """All of its life."""
        rng = self.rng
        try:
            self.begin()
            for _ in range(rng.randint(2, 4)):
                self.wave()
                self.idle()
                self.go_on(faulty=rng.random() < 0.5)
            self.mend_items()
            self.finish()
            for _ in range(rng.randint(0, 2)):
                self.damage()
                self.finish(repair=True)
            if rng.random() < 0.7:
                self.show_late()
            if rng.random() < 0.4:
                self.kill_collect()
            self.check_answer(self.run.collect(patience=0))
        finally:
            os.environ.pop(VARIABLE, None)
            for process in self.processes():
                process.kill()

    # --- faults -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Submit; the driver may be killed."""
        if self.rng.random() < 0.3:
            words = ("tests.chaos.soak_work", str(self.folder))
            self._run_dying(self.rng.randint(1, 60), "driver killed", *words)
        self.go_on(faulty=self.rng.random() < 0.4)

    def wave(self) -> None:
        """Signal some of the processes, at random moments, or start a second copy of all."""
        for _ in range(self.rng.randint(1, 4)):
            if not self._some_progress(self.rng.randint(1, 4)):
                return
            if self.rng.random() < 0.15:
                self.start_copies()
                continue
            who = self.rng.choice(("worker", "worker", "worker", "supervisor"))
            self._signal(who, self.rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)))

    def start_copies(self) -> None:
        """Start a second copy of all that is not done."""
        self._look()  # what is durable now must not be computed by the copies
        self.tally.faults["two live copies"] += 1
        self._submitting(lambda: self.run.resume(force=True))

    def _signal(self, who: str, number: signal.Signals) -> None:
        if who == "supervisor" and number == signal.SIGUSR1:
            number = signal.SIGKILL  # it has no use for that signal
        found = [p for p in self.processes() if self._is_supervisor(p) == (who == "supervisor")]
        if found:
            try:
                self.rng.choice(found).send_signal(number)
            except psutil.NoSuchProcess:
                return
            self.tally.faults[f"{number.name} to {who}"] += 1

    def damage(self) -> None:
        """Change files that a receipt vouches for; collect has to say so."""
        for _ in range(self.rng.randint(1, 2)):
            kind = self.rng.choice(("truncated", "bit flipped", "removed", "receipt truncated"))
            receipts = self._receipts()
            path, receipt = self.rng.choice(sorted(receipts.items()))
            part = self.rng.choice(receipt.parts)
            file = self.run_dir / layout.RESULTS / part.file
            if kind == "receipt truncated":
                data = path.read_bytes()
                path.write_bytes(data[: self.rng.randrange(len(data))])
            elif kind == "removed":
                file.unlink()
            else:
                data = file.read_bytes()
                at = self.rng.randrange(part.bytes)
                bit = bytes([data[at] ^ 1 << self.rng.randrange(8)])
                file.write_bytes(data[:at] + (bit + data[at + 1 :] if kind[0] == "b" else b""))
            self.tally.faults[f"file {kind}"] += 1
            if kind != "receipt truncated":
                self.damaged.add(part.file)
            try:
                self.run.collect(patience=0)
                self.tally.unnoticed += 1
                self.tally.problems.append(f"{kind} {file} was not noticed")
            except DamagedResult:
                pass
            self.seen = {}
            self._look()
            if kind != "bit flipped":
                break  # a second damage may hit the same, and find too little to damage

    def show_late(self) -> None:
        """A file appears only while collect waits for it, or is empty until then."""
        path = self.rng.choice(sorted((self.run_dir / layout.RESULTS).glob("*.jsonl")))
        aside = path.with_name(f".{path.name}.aside")
        path.rename(aside)
        empty = self.rng.random() < 0.5
        if empty:
            path.touch()
        timer = threading.Timer(0.2, lambda: aside.replace(path))
        timer.start()
        try:
            self.check_answer(self.run.collect(patience=30))
        finally:
            timer.join()
        self.tally.faults["file late, empty" if empty else "file late"] += 1

    def kill_collect(self) -> None:
        """The merged file is there whole, or not at all."""
        output = self.folder / "out.jsonl"
        words = ("espnet3", "collect", str(self.run_dir), "-o", str(output), "--patience", "0")
        self._run_dying(self.rng.randint(1, 14), "collect killed", *words)
        if output.exists():
            lines = output.read_text().splitlines()
            self.check_answer([json.loads(line)["result"] for line in lines])

    def mend_items(self) -> None:
        """From now on no item fails; those that are recorded have to be tried again."""
        (self.folder / MENDED).touch()

    def _run_dying(self, step: int, kind: str, *words: str) -> None:
        module = [sys.executable, "-m", "tests.chaos.dying_process", str(step)]
        done = subprocess.run(
            [*module, str(self.folder / "operations"), *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        if done.returncode == -signal.SIGKILL:
            self.tally.faults[kind] += 1
        elif done.returncode != 0:
            raise Wrong(f"{words[0]} ended with {done.returncode}: {done.stderr}")

    # --- what a user does -------------------------------------------------------------------------

    def go_on(self, *, faulty: bool = False) -> None:
        """Resume, or make the same call again; its workers may meet a failing storage."""
        log = self.folder / "faults"
        log.unlink(missing_ok=True)
        if faulty:
            faults = Faults(
                seed=self.rng.randrange(10**6),
                rate=self.rng.choice((0.01, 0.03)),
                root=str(self.run_dir),
                log=str(log),
            )
            os.environ |= faults_environment(faults)
        try:
            there = (self.run_dir / layout.RUN).exists()
            self._submitting(self.run.resume if there else lambda: submit(self.folder))
            if faulty:
                self.idle()
        finally:
            os.environ.pop(VARIABLE, None)
        for _, _, error, _ in injected(log):
            self.tally.faults[f"storage: {error}"] += 1

    def _submitting(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except SubmissionRefused:
            return  # the supervisor died, or its storage failed, at its start
        self.tally.resumes += 1

    def finish(self, *, repair: bool = False) -> None:
        """Resume until all is there; without faults that takes a few times at most."""
        for _ in range(TRIES):
            self.idle()
            try:
                self.run.collect(patience=0)
                return
            except FailedItems:
                self._submitting(lambda: self.run.resume(items="failed", patience=0))
            except EspnetError as error:
                if not (self.run_dir / layout.RUN).exists():
                    self._submitting(lambda: submit(self.folder))
                    continue
                damaged = isinstance(error, DamagedResult)
                if damaged and not repair:
                    raise
                self._submitting(lambda: self.run.resume(repair=repair, patience=0))
                if repair and self.rng.random() < 0.3:
                    self.wave()
        self.tally.lost += self.n_items
        raise Wrong(f"not done after {TRIES} resumes: {self.run.status().unfinished()}")

    def idle(self) -> None:
        """Wait until nothing of the run lives, and check what it left."""
        deadline = time.monotonic() + self.longest
        while self.processes():
            if time.monotonic() > deadline:
                raise Wrong(f"still alive after {self.longest} s: {self.run.status().unfinished()}")
            time.sleep(0.03)
        self._look()

    # --- what must be true ------------------------------------------------------------------------

    def check_answer(self, results: list[Any]) -> None:
        """Compare with what local mode would give."""
        expected = [answer(item) for item in range(self.n_items)]
        if results == expected:
            return
        self.tally.lost += sum(result not in results for result in expected)
        twice = Counter(json.dumps(result) for result in results)
        self.tally.duplicated += sum(n - 1 for n in twice.values())
        raise Wrong("the answer is wrong")

    def _look(self) -> None:
        """Nothing durable was begun again; nothing published was edited."""
        begun = self.folder / BEGUN
        lines = begun.read_bytes().split(b"\n")[:-1] if begun.exists() else []
        again = [int(line) for line in lines[self.looked_at :] if int(line) in self.durable]
        now = self._files()
        edited = [
            name
            for name, data in self.seen.items()
            if not now.get(name, b"").startswith(data)
            or (now[name] != data and not name.startswith(layout.RESULTS))
        ]
        self.durable = self._durable(now)
        self.looked_at, self.seen = len(lines), now
        if again:
            self.tally.duplicated += len(again)
            raise Wrong(f"durable items were computed again: {again}")
        if edited:
            raise Wrong(f"published files were edited or removed: {edited}")

    def _files(self) -> dict[str, bytes]:
        found = {}
        for path in self.run_dir.rglob("*"):
            name = str(path.relative_to(self.run_dir))
            if path.is_file() and not path.name.startswith(".") and not name.startswith("logs"):
                found[name] = path.read_bytes()
        return found

    def _durable(self, files: dict[str, bytes]) -> set[int]:
        """Items with a whole and right line in a result file that was not damaged on purpose."""
        found: set[int] = set()
        if layout.RUN not in files:
            return found
        run = decode(RunSpec, files[layout.RUN], layout.RUN)
        for name, data in files.items():
            file = layout.parse_result(name.removeprefix(f"{layout.RESULTS}/"))
            if file is None or name.removeprefix(f"{layout.RESULTS}/") in self.damaged:
                continue
            first = run.bounds_of(file.rank)[0] + file.first
            for item, line in enumerate(data.split(b"\n")[:-1], first):
                record = json.loads(line)
                if record["item"] != item:
                    raise Wrong(f"{name} holds item {record['item']} in the place of {item}")
                if "result" in record:
                    found.add(item)
        return found

    def _receipts(self) -> dict[Path, Receipt]:
        """The receipts that count: each shard's newest."""
        newest: dict[int, Path] = {}
        for path in sorted((self.run_dir / layout.RECEIPTS).glob("*.json"), key=_generation):
            newest[int(path.name.split(".")[0])] = path
        return {p: decode(Receipt, p.read_bytes(), str(p)) for p in newest.values()}

    def processes(self) -> list[psutil.Process]:
        """The live processes of the run."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            if str(self.run_dir) in words and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def _is_supervisor(self, process: psutil.Process) -> bool:
        return "espnet3.worker.supervisor" in process.info["cmdline"]

    def _some_progress(self, n: int) -> bool:
        """Wait until some more items are begun. False where all processes end before."""
        begun = self.folder / BEGUN
        goal = (begun.stat().st_size if begun.exists() else 0) + 2 * n
        while not begun.exists() or begun.stat().st_size < goal:
            if not self.processes():
                return False
            time.sleep(0.01)
        return True


def _generation(path: Path) -> int:
    words = path.name.split(".")
    return int(words[1]) if len(words) == 3 else 1
