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
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.errors import DeniedError, RegistryError
from mbuild.shared.naming import LEASE, lease_name
from mbuild.store.shared import Held
from mbuild.work.beside import Beside

if TYPE_CHECKING:
    from mbuild.shared.guard import Guard
    from mbuild.store.shared import SharedStorage
    from mbuild.work.cancel import Cancel

LIFE_SECONDS = 30.0
"""How long a lease lasts that nobody renews."""

SETTLE_SECONDS = 0.3
"""How long after a lease was written it is looked whose it is, where storages cannot tell."""

_TICK_SECONDS = 0.1
_LONGEST_LIFE = 600.0


def _holder() -> str:
    """Who this is, for whoever waits: the machine and the process."""
    return f"{socket.gethostname()[:100]} (process {os.getpid()})"


def _process(pid: int | str = "self") -> str:
    """What tells a process of this machine from every other one, as far as Linux says it.

    That is the machine since it was started, the process's namespace, its number and when it
    began; nothing elsewhere, and for one that is gone.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = os.stat("/proc/self/ns/pid").st_ino
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        number = os.getpid() if pid == "self" else pid
        return f"{boot} {space} {number} {int(fields[19])}"
    except (OSError, ValueError, IndexError):
        return ""


def _is_dead(said: object) -> bool:
    """Whether a holder was a process of this machine, and is no more: nobody waits for it."""
    own = _process().split()
    parts = str(said).split()
    if len(own) != 4 or len(parts) != 4 or parts[:2] != own[:2] or not parts[2].isdecimal():
        return False
    return _process(parts[2]) != str(said)


def _creation(name: str, text: bytes) -> Callable[[SharedStorage], bool]:
    return lambda storage: storage.create(name, text)


def _writing(name: str, text: bytes) -> Callable[[SharedStorage], bool]:
    """As a creation, where a storage refuses what is written on a condition."""

    def write(storage: SharedStorage) -> bool:
        storage.write_many({name: text})
        return True

    return write


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
        self._conditions = True  # whether the storage takes what is written on a condition

    def take(self, key: str) -> Lease | None:
        """The lease on a key; None while somebody else has it."""
        return self.take_many([key]).get(key)

    def take_many(self, keys: Collection[str]) -> dict[str, Lease]:
        """Leases on those of the keys on which nobody else has one.

        A storage that cannot tell who was first is asked before, and once more a moment after:
        of several who wrote the last one has it. Only who takes longer from the look to the
        write than that moment does the same work twice.
        """
        leases = {key: Lease(self, lease_name(key)) for key in keys}
        names = [lease.name for lease in leases.values()]
        atomic = self.exclusive
        there = {} if atomic else self._guard.read_many(names)
        taken: dict[str, Lease] = {}
        for key, lease in leases.items():
            name, text = lease.name, self._text(lease)
            begin = _creation if self._conditions else _writing
            if not there.get(name) and self._guard.tell(begin(name, text), True):
                taken[key] = lease
        if taken and not atomic:
            time.sleep(SETTLE_SECONDS)
            now = self._guard.read_many([lease.name for lease in taken.values()])
            taken = {k: x for k, x in taken.items() if now.get(x.name, b"") in (b"", x.last)}
        for lease in taken.values():
            self._add(lease)
        return taken

    def held(self, key: str) -> Held | None:
        """Whose a lease is."""
        name = lease_name(key)
        found = self._guard.read_many([name])
        text = found.get(name, b"")
        if name not in found or not (text or self.exclusive):
            return None  # where names cannot be removed an empty one is free
        holder, life = "another build", self._life
        try:
            value = json.loads(text)
            holder = "".join(c for c in str(value["holder"])[:200] if c.isprintable())
            said = float(value["life"])
            life = min(max(said, 0.0), _LONGEST_LIFE) if said == said else self._life
            life = 0.0 if _is_dead(value.get("process")) else life
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
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
            "process": _process(),
        }
        lease.last = json.dumps(value).encode()
        return lease.last

    def _read(self, name: str) -> bytes:
        return self._guard.read_many([name]).get(name, b"")

    @property
    def exclusive(self) -> bool:
        """Whether the storage knows who was first: tried once, for some only say that they do."""
        if self._atomic is None:
            self._atomic = self._guard.storage.can_lease and self._tried()
        return self._atomic

    def _tried(self) -> bool:
        name = f"{LEASE}/{os.urandom(32).hex()}"

        def create(storage: SharedStorage) -> bool:
            try:
                return storage.create(name, b"{}")
            except DeniedError:
                raise
            except RegistryError:
                # Some servers answer that they have no such thing. If they take the same without
                # the condition, that was all that is wrong.
                self._conditions = False
                return _writing(name, b"{}")(storage)

        first = self._guard.tell(create, False)
        again = self._guard.tell(create, True) if self._conditions else True
        self._guard.tell(lambda storage: storage.remove([name]), None)
        return first and not again
