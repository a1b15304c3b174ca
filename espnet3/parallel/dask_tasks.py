"""Many elements to a Dask task: sending batches, taking results, and what goes wrong meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import wait
from typing import Any, NamedTuple

from dask._task_spec import Task
from dask.sizeof import sizeof
from distributed import Client, Future, KilledWorker, WorkerPlugin, as_completed, get_worker

from espnet3.errors import UnserializableResult, WorkersKilled
from espnet3.parallel.batch_sizer import TASK_SECONDS, BatchSizer
from espnet3.parallel.dask_worker_env import bound_to_env
from espnet3.parallel.dask_worker_watch import LOOK_EVERY, WorkerWatch
from espnet3.parallel.pickles import dumps, loads
from espnet3.text import one_line

BATCHES_PER_THREAD = 2  # under way: one is computed while the next one waits beside it
LARGE_CALL = 100_000  # bytes; below them, to send them is quicker than to ask every worker

# Dask's scheduler then keeps what no worker is free for, instead of handing it to a worker where
# it may wait behind a slow item. Without this it does so only where very many tasks are there.
_QUEUED: dict[str, Any] = (
    {"_data_producer": True} if "_data_producer" in inspect.signature(Task).parameters else {}
)


class _Done(NamedTuple):
    """A finished batch: its results, pickled, and how many seconds it took."""

    results: bytes
    seconds: float


class _Failed(NamedTuple):
    """A batch in which a call raised: its position, the exception and where it was raised."""

    position: int
    error: BaseException
    traceback: str
    worker: str


class _LargeCall(WorkerPlugin):
    """Function and keyword arguments that every worker gets once, and not with each batch."""

    def __init__(self, name: str, pickled: bytes) -> None:
        self.name, self._pickled = name, pickled
        self._call: tuple[Callable[..., Any], Mapping[str, Any]] | None = None

    def call(self) -> tuple[Callable[..., Any], Mapping[str, Any]]:
        """Both; unpickled by the first task, since a worker's event loop must not wait for it."""
        if self._call is None:
            self._call = loads(self._pickled)
        return self._call


_last_call: tuple[bytes, Any] = (b"", None)


def _loaded(call: bytes) -> Any:
    """Function and keyword arguments; once for all batches, so that what they cache stays."""
    global _last_call
    last = _last_call
    if last[0] != call:
        _last_call = last = (call, loads(call))
    return last[1]


def _compute_batch(call: bytes | str, pickled: bytes) -> _Done | _Failed:
    """On a worker: call the function for each element of a batch.

    Args:
        call: function and keyword arguments, pickled; or the name of the plugin that has them.
        pickled: the elements.
    """
    batch: list[Any] = []
    results: list[Any] = []
    try:
        batch = loads(pickled)
        plugins: Any = get_worker().plugins
        func, kwargs = plugins[call].call() if isinstance(call, str) else _loaded(call)
        bound = bound_to_env(func, kwargs)
        began = time.perf_counter()
        for element in batch:
            results.append(bound(element))
    except BaseException as error:  # noqa: BLE001 (raised again; a few would end the worker)
        text = "".join(traceback.format_exception(error))
        return _Failed(len(results), _portable(error), text, get_worker().address)
    # Pickled here: Dask would ask for what cannot be pickled again and again.
    try:
        done = dumps(results)
    except Exception:  # noqa: BLE001 (pickling runs the user's code)
        return _unpicklable(batch, results)
    return _Done(done, time.perf_counter() - began)


def _portable(error: BaseException) -> BaseException:
    """The exception, or one that says the same if it does not survive the way to the caller."""
    error.__traceback__ = None
    with contextlib.suppress(Exception):  # pickling runs the user's code
        loads(dumps(error))
        if not isinstance(error, StopIteration):  # that would end a generator on its way
            return error
    return RuntimeError(f"{type(error).__name__}: {one_line(str(error))}")


def _unpicklable(batch: list[Any], results: list[Any]) -> _Failed:
    for position, result in enumerate(results):
        try:
            dumps(result)
        except Exception as problem:  # noqa: BLE001 (pickling runs the user's code)
            name = type(result).__name__
            error = UnserializableResult(batch[position], name, str(problem), "pickle")
            return _Failed(position, error, "", get_worker().address)
    error = UnserializableResult(batch[0], "list", "only some results at once", "pickle")
    return _Failed(0, error, "", get_worker().address)


class _Batch(NamedTuple):
    """What was sent: the position of its first element, and the elements."""

    first: int
    elements: list[Any]


def run_batches(
    client: Client,
    func: Callable[..., Any],
    elements: Iterable[Any],
    kwargs: Mapping[str, Any],
    *,
    total: int | None = None,
    one_by_one: bool = False,
) -> Generator[tuple[int, list[Any]], None, None]:
    """Call a function for every element, many elements to a Dask task.

    Args:
        client: connected to workers that have the environment.
        func: called with an element, `kwargs` and entries of the environment.
        elements: taken only as they can be sent.
        kwargs: for every call.
        total: how many elements there are, if that is known.
        one_by_one: whether each element is a task of its own.

    Yields:
        Position of a batch's first element, and the batch's results; as they are completed.

    Raises:
        WorkersKilled: an element keeps killing workers; names it.
        NoWorkers, SubmissionRefused: all workers are gone, and none comes.
        Exception: what `func` raised, with the element and the remote traceback as notes. What is
            under way is cancelled then, and where the caller goes no further.
    """
    batches = _BatchesUnderWay(client, func, kwargs)
    source = iter(elements)
    sizer = BatchSizer(total)
    watch = WorkerWatch(client)  # workers come and go
    first, more = 0, True
    try:
        while True:
            watch.look()
            sizer.n_threads = watch.n_threads
            while more and batches.room_for_more(
                sizer.n_threads * (1 if sizer.growing else BATCHES_PER_THREAD)
            ):
                batch = _take(source, 1 if one_by_one else sizer.next_size())
                more = bool(batch)
                if batch:
                    batches.send(_Batch(first, batch))
                    first += len(batch)
            batches.send_suspect()
            if not batches.count:
                return
            done = batches.next_done(watch)
            if done is None:
                continue
            batch_done, outcome = done
            n_bytes = max(len(outcome.results), sizeof(batch_done.elements))
            sizer.observe(len(batch_done.elements), outcome.seconds, n_bytes)
            yield batch_done.first, _unpickled(batch_done, outcome)
    finally:
        batches.cancel()


def _take(source: Iterator[Any], size: int) -> list[Any]:
    """The next elements: `size` of them, or what a slow source gives in the time of a task."""
    batch: list[Any] = []
    deadline = time.monotonic() + TASK_SECONDS
    for element in itertools.islice(source, size):
        batch.append(element)
        if time.monotonic() > deadline:
            break
    return batch


def _unpickled(batch: _Batch, done: _Done) -> list[Any]:
    try:
        results: list[Any] = loads(done.results)
    except Exception as error:
        error.add_note(f"while unpickling the results of the items {_span(batch)}")
        raise
    return results


def _span(batch: _Batch) -> str:
    shown = [one_line(repr(batch.elements[at]), 200) for at in (0, -1)]
    return f"from {shown[0]} to {shown[1]}"


class _BatchesUnderWay:
    """Batches that were sent and whose results were not fetched yet.

    Dask gives a task up after it was on a few workers that died, be it the culprit or its
    neighbour. So the elements of such a batch are *suspects*: they run again when nothing else
    does, one at a time.
    """

    def __init__(self, client: Client, func: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
        self._client = client
        self._plugin: str | None = None
        self._call: bytes | str = dumps((func, kwargs))
        if len(self._call) > LARGE_CALL:
            self._plugin = f"espnet3-call-{uuid.uuid4()}"
            client.register_plugin(_LargeCall(self._plugin, self._call))
            self._call = self._plugin
        self._batches: dict[Future[_Done | _Failed], _Batch] = {}
        self._suspects: deque[_Batch] = deque()
        self._alone = False
        self._completed = as_completed([], loop=client.loop)

    @property
    def count(self) -> int:
        """How many batches are under way."""
        return len(self._batches)

    def room_for_more(self, most: int) -> bool:
        """Whether another batch may be sent; at most so many at a time."""
        return self.count < most and not self._suspects and not self._alone

    def send(self, batch: _Batch) -> None:
        """Hand a batch to the cluster."""
        try:
            pickled = dumps(batch.elements)
        except Exception as error:
            error.add_note(f"while sending the items {_span(batch)}")
            raise
        future = self._client.submit(_compute_batch, self._call, pickled, pure=False, **_QUEUED)
        self._batches[future] = batch
        self._completed.add(future)

    def send_suspect(self) -> None:
        """Hand the next suspect to the cluster, if nothing else is under way."""
        if self._suspects and not self._batches:
            self._alone = True
            self.send(self._suspects.popleft())

    def next_done(self, watch: WorkerWatch) -> tuple[_Batch, _Done] | None:
        """Wait for the next finished batch; None where one has to be tried again."""
        while not self._completed.has_ready() and not self._completed.is_empty():
            watch.look()
            with self._completed.thread_condition:
                if not self._completed.has_ready():  # looked at again, or its notice is missed
                    self._completed.thread_condition.wait(0.1)
        future = next(self._completed)
        batch = self._batches.pop(future)
        alone, self._alone = self._alone, False
        try:
            outcome = self._fetched(future, watch)
        except KilledWorker as killed:
            if alone and len(batch.elements) == 1:
                raise WorkersKilled(batch.elements[0], killed.last_worker.address) from None
            self._suspects.extend(
                _Batch(batch.first + offset, [element])
                for offset, element in enumerate(batch.elements)
            )
            return None
        if isinstance(outcome, _Failed):
            raise _with_notes(outcome, batch.elements[outcome.position])
        return batch, outcome

    def _fetched(self, future: Future[_Done | _Failed], watch: WorkerWatch) -> _Done | _Failed:
        """What a finished batch came to; where its worker is gone, Dask waits for another one."""

        async def fetch() -> Any:
            return await self._client.gather(future, asynchronous=True)

        loop: Any = self._client.loop
        fetching = asyncio.run_coroutine_threadsafe(fetch(), loop.asyncio_loop)
        try:
            while not wait([fetching], LOOK_EVERY).done:
                watch.look()
            outcome: _Done | _Failed = fetching.result()
        finally:
            fetching.cancel()
        return outcome

    def cancel(self) -> None:
        """Forget what is under way."""
        if self._client.status == "running":
            with contextlib.suppress(TimeoutError, OSError):
                if self._batches:
                    self._client.cancel(list(self._batches), force=True)
                if self._plugin is not None:
                    self._client.unregister_worker_plugin(self._plugin)
        self._batches.clear()


def _with_notes(failed: _Failed, element: Any) -> BaseException:
    """The exception as it reaches the caller."""
    error = failed.error
    error.add_note(f"while computing item {one_line(repr(element), 200)} on {failed.worker}")
    if failed.traceback:
        error.add_note(f"remote traceback:\n{failed.traceback}")
    return error
