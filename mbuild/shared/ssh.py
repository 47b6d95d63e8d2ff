"""A folder over SSH: fsspec's SFTP, which connects when it is first asked, to a host that is known.

fsspec takes whatever key a host shows. Who stood in between would be given the login and could
put anything into the cache; so a host counts as ``ssh`` has it: by the files of known hosts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem

from mbuild.core.errors import RegistryError

if TYPE_CHECKING:
    from mbuild.shared.locations import Location

_CONNECT_SECONDS = 5
_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"
"""Those that the machine's administrator has written down, beside the user's own."""


class _Unknown(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    """Refuses a host that is in no file of known hosts."""

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        """Raise :class:`RegistryError` with what to compare."""
        host, _, port = hostname.lstrip("[").partition("]:")
        command = f"ssh -p {port} {host}" if port else f"ssh {host}"
        raise RegistryError(
            f"the host {host} is not known: it shows the {key.get_name()} key {key.fingerprint}",
            hint=f"connect once with {command}, which asks whether that is right and remembers it",
        )


class _KnownHosts(SFTPFileSystem):  # type: ignore[misc]
    """Connects only to hosts that are known by their keys."""

    cachable = False

    def _connect(self) -> None:
        self.client = paramiko.SSHClient()
        self.client.load_system_host_keys()
        with suppress(OSError):
            self.client.load_system_host_keys(_KNOWN_HOSTS)
        self.client.set_missing_host_key_policy(_Unknown())
        try:
            self.client.connect(self.host, **self.ssh_kwargs)
            self.ftp = self.client.open_sftp()
        except paramiko.BadHostKeyException as error:
            self.client.close()
            raise RegistryError(
                f"the host {self.host} shows another key than the one it is known by:"
                f" {error.key.get_name()} {error.key.fingerprint}",
                hint="somebody may be in between; if its key was changed, take the old one out of"
                " the file: ssh-keygen -R HOST",
            ) from None
        except BaseException:
            self.client.close()
            raise


class SSHSystem:
    """The file system, which connects with the first thing that it is asked.

    A cache that cannot be reached is a warning, and not the end of a build.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect

    @cached_property
    def _system(self) -> Any:
        return self._connect()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._system, name)

    def close(self) -> None:
        """Let go of the connection, if there is one."""
        system = self.__dict__.get("_system")
        if system is not None:
            with suppress(Exception):
                system.client.close()


def connecting(location: Location) -> tuple[SSHSystem, str]:
    """The file system that a location means, and the path in it; nothing is asked yet."""
    url = str(location)
    named = _KnownHosts._get_kwargs_from_urls(url)
    host = named.pop("host", "")
    system = SSHSystem(lambda: _KnownHosts(host, timeout=_CONNECT_SECONDS, **named))
    return system, str(_KnownHosts._strip_protocol(url))
