"""Who else computes for a build: any executor, or a cluster of Dask by the words of ``--on``."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import UsageError, WorkerError
from mbuild.core.values import NamedTuple
from mbuild.work.cores import cores

if TYPE_CHECKING:
    from concurrent.futures import Executor

WORKERS_SECONDS = 60
"""How long a cluster without workers is waited for."""

EMPTY_SECONDS = 20
"""How long a cluster may have no workers during a build: nannies start dead ones again."""

_SHARED_IMPORTS = ["distributed.nanny", "distributed.worker", "mbuild.build.steps.filling"]
"""What every worker process here needs, which is loaded once, before they are forked."""

_CONNECT_SECONDS = 15
_ASK_SECONDS = 1.0


class WorkerPool(NamedTuple):
    """An executor, how many tasks it runs at once, and what messages call it.

    ``lost`` tells why it no longer answers; nothing while it does.
    """

    executor: Executor
    slots: int
    place: str
    lost: Callable[[], str] = lambda: ""


def pool_of(executor: Executor, place: str = "") -> WorkerPool:
    """A pool over any executor; those of the standard library tell how many tasks they run."""
    slots = getattr(executor, "_max_workers", None)
    count = slots if isinstance(slots, int) and slots > 0 else cores()
    return WorkerPool(executor, count, place or type(executor).__name__)


@contextmanager
def any_pool(who: Executor | str) -> Iterator[WorkerPool]:
    """A pool over an executor, which stays as it is, or what :func:`open_pool` opens."""
    if isinstance(who, str):
        with open_pool(who) as pool:
            yield pool
    else:
        yield pool_of(who)


@contextmanager
def open_pool(where: str) -> Iterator[WorkerPool]:
    """The workers that ``--on`` names: ``local:N``, or ``dask://HOST:PORT`` of a scheduler.

    Raises :class:`UsageError` for anything else and where Dask is not installed, and
    :class:`WorkerError` for a scheduler that does not answer or has no workers.
    """
    kind, _, rest = where.partition(":")
    if kind == "local" and rest.isdecimal() and int(rest) > 0:
        opened = _local(int(rest))
    elif kind == "dask" and rest.startswith("//") and rest[2:].strip("/"):
        opened = _scheduler(rest[2:].strip("/"))
    else:
        raise UsageError(
            f"--on {where}: not a place that computes", hint="write local:N or dask://HOST:8786"
        )
    with opened as client:
        yield _of_client(client, where)


def _dask() -> Any:
    """Dask's package, which says nothing: what matters of it becomes an error or a warning."""
    try:
        import distributed
    except ImportError:
        raise UsageError(
            "--on needs Dask, which is not installed", hint="pip install 'mbuild-models[dask]'"
        ) from None
    for name in ("distributed", "distributed.client", "distributed.core", "asyncio", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed


@contextmanager
def _local(count: int) -> Iterator[Any]:
    """Worker processes on this machine, which share its cores."""
    method = _forking()
    distributed = _dask()
    import dask

    threads = max(1, cores() // count)
    changed = {
        "distributed.worker.multiprocessing-method": method,
        "distributed.worker.profile.enabled": False,  # it looks 100 times a second
        "distributed.admin.tick.interval": "1s",  # the same 50 times
    }
    with (
        dask.config.set(changed),
        distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=threads,
            processes=True,
            memory_limit=None,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False, direct_to_workers=True) as client,
    ):
        yield client


def _forking() -> str:
    """How worker processes start: forked from one that has loaded what they need, if possible.

    That process starts now, and loads beside this one; it ends when this one does.
    """
    import multiprocessing

    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    from multiprocessing import forkserver

    forkserver.set_forkserver_preload(_SHARED_IMPORTS)
    forkserver.ensure_running()
    return "forkserver"


@contextmanager
def _scheduler(address: str) -> Iterator[Any]:
    """A scheduler that somebody has started, and the workers that it has."""
    distributed = _dask()
    place = f"dask://{address}"
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--on {place} has no port", hint="write dask://HOST:8786")
    try:
        # Dask's client would try again until its time is over, also where nobody listens.
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        client = distributed.Client(
            f"tcp://{address}",
            timeout=_CONNECT_SECONDS,
            set_as_default=False,
            direct_to_workers=True,
        )
    except (OSError, ValueError) as error:
        raise WorkerError(
            f"{place} does not answer: {error}", hint="start it: dask scheduler"
        ) from None
    try:
        client.wait_for_workers(1, timeout=WORKERS_SECONDS)
    except TimeoutError:
        client.close(timeout=1)
        raise WorkerError(
            f"{place} has no workers", hint="start some: dask worker tcp://HOST:8786"
        ) from None
    try:
        yield client
    finally:
        with suppress(Exception):  # it may be gone, which does not matter any more
            client.close(timeout=2)


class _Health:
    """Whether a cluster answers and has workers; many threads ask, ten times a second."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._asking = threading.Lock()
        self._next = 0.0
        self._seen = time.monotonic()  # when there last were workers

    def lost(self) -> str:
        """Why nothing comes from there any more; nothing while something may."""
        if self._client.status not in ("running", "connecting"):
            return f"it is {self._client.status}"
        now = time.monotonic()
        if now >= self._next and self._asking.acquire(blocking=False):
            try:
                self._next = now + _ASK_SECONDS
                if self._client.nthreads():
                    self._seen = time.monotonic()
            except Exception:  # the scheduler is going, which its status will tell
                pass
            finally:
                self._asking.release()
        return "it has no workers" if now - self._seen > EMPTY_SECONDS else ""


def _of_client(client: Any, place: str) -> WorkerPool:
    slots = sum(client.nthreads().values()) or 1
    return WorkerPool(client.get_executor(pure=False), slots, place, _Health(client).lost)
