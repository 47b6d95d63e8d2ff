"""Single flight: who makes something says so, and others wait instead of making it too.

A lease is a small object that only one can create. Its holder writes it anew three times in its
life; whoever waits takes it over when it has not changed for that long by the waiter's own
clock, so no two machines need the same time. It only saves work: a lost lease means the same
bytes twice. Nobody ever reads a result because of a lease.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mbuild.shared.naming import LEASE, lease_name
from mbuild.store.shared import Held
from mbuild.work.beside import Beside

if TYPE_CHECKING:
    from mbuild.shared.guard import Guard
    from mbuild.work.cancel import Cancel

LIFE_SECONDS = 30.0
"""How long a lease lasts that nobody renews."""

_TICK_SECONDS = 0.1
_LONGEST_LIFE = 600.0


def _holder() -> str:
    """Who this is, for whoever waits: the machine and the process."""
    return f"{socket.gethostname()[:100]} (process {os.getpid()})"


class Lease:
    """A lease that this process holds on a key."""

    def __init__(self, leases: Leases, name: str) -> None:
        self.name = name
        self.nonce = os.urandom(8).hex()
        self.count = 0
        self.last = b""
        self._leases = leases

    def release(self) -> None:
        """Let it go after all that was put before."""
        self._leases.after_all(lambda: self._leases.drop(self))


class Leases:
    """The leases of one build, renewed together on one thread. Safe for many threads."""

    def __init__(
        self,
        guard: Guard,
        after_all: Callable[[Callable[[], object]], object],
        life: float = LIFE_SECONDS,
    ) -> None:
        self.after_all = after_all
        self._guard = guard
        self._life = life
        self._held: dict[str, Lease] = {}
        self._renewing: Beside[None] | None = None
        self._atomic: bool | None = None

    def take(self, key: str) -> Lease | None:
        """The lease on a key; None while somebody else has it.

        A storage that is not atomic is asked first, which nearly always tells.
        """
        lease = Lease(self, lease_name(key))
        text = self._text(lease)
        if not self._is_atomic() and self._read(lease.name):
            return None
        made = self._guard.tell(lambda storage: storage.create(lease.name, text), True)
        if not made:
            return None
        self._add(lease)
        return lease

    def held(self, key: str) -> Held | None:
        """Whose a lease is."""
        text = self._read(lease_name(key))
        if not text:
            return None
        holder, life = "another build", self._life
        try:
            value = json.loads(text)
            holder = "".join(c for c in str(value["holder"])[:200] if c.isprintable())
            life = min(max(float(value["life"]), 0.0), _LONGEST_LIFE)
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # a damaged lease ends like any other
        return Held(holder, life, text)

    def take_over(self, key: str, stale: Held) -> Lease | None:
        """The lease in place of one that was not renewed."""
        name = lease_name(key)
        if self._read(name) != stale.content:
            return None
        self._guard.tell(lambda storage: storage.remove([name]), None)
        return self.take(key)

    def drop(self, lease: Lease) -> None:
        """Remove a lease, if it is still this one."""
        if self._held.pop(lease.name, None) is None:
            return
        if self._read(lease.name) == lease.last:
            self._guard.tell(lambda storage: storage.remove([lease.name]), None)

    def close(self) -> None:
        """Let all of them go."""
        if self._renewing is not None:
            self._renewing.stop()
        for lease in list(self._held.values()):
            self.drop(lease)

    def _add(self, lease: Lease) -> None:
        self._held[lease.name] = lease
        if self._renewing is None:
            self._renewing = Beside(self._renew, "mbuild-leases")
            self._renewing.start()

    def _renew(self, cancel: Cancel) -> None:
        due = time.monotonic() + self._life / 3
        while not cancel.cancelled:
            time.sleep(_TICK_SECONDS)
            if time.monotonic() < due:
                continue
            due = time.monotonic() + self._life / 3
            for lease in list(self._held.values()):
                if self._read(lease.name) != lease.last:
                    self._held.pop(lease.name, None)  # it was taken over: nothing depends on it
                    continue
                self._guard.tell(self._renewal(lease), None)

    def _renewal(self, lease: Lease) -> Callable[..., None]:
        lease.count += 1
        text = self._text(lease)
        return lambda storage: storage.write_many({lease.name: text})

    def _text(self, lease: Lease) -> bytes:
        value = {
            "holder": _holder(),
            "life": self._life,
            "nonce": lease.nonce,
            "renewed": lease.count,
        }
        lease.last = json.dumps(value).encode()
        return lease.last

    def _read(self, name: str) -> bytes:
        return self._guard.read_many([name]).get(name, b"")

    def _is_atomic(self) -> bool:
        """Whether the storage knows who was first: tried once, for some only say that they do."""
        if self._atomic is None:
            self._atomic = self._guard.storage.can_lease and self._tried()
        return self._atomic

    def _tried(self) -> bool:
        name = f"{LEASE}/{os.urandom(32).hex()}"
        first = self._guard.tell(lambda storage: storage.create(name, b"{}"), False)
        again = self._guard.tell(lambda storage: storage.create(name, b"{}"), True)
        self._guard.tell(lambda storage: storage.remove([name]), None)
        return first and not again
