"""Where a shared cache lies, as the user says it: URLs without secrets, and who may write."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mbuild.core.environment import CACHE_VARIABLE, CACHE_WRITE_VARIABLE
from mbuild.core.errors import UsageError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple

_SCHEME = regex(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_SLIP = regex(
    r"(https?|oci(?:\+http)?|s3a?|gs|gcs|az|abfss?|sftp|ssh|file|ftps?|hdfs|webdavs?|redis)[:;]",
    re.IGNORECASE,
)
"""How a URL begins of which a slash is missing: quoted as a folder it might show a login."""
_SECRETS = "the credentials come from the environment or from the configuration of the storage's"


class Location(NamedTuple):
    """A place: ``scheme`` in lower case, ``rest`` what stands behind ``://``.

    A folder has the scheme ``file`` and its path, as the user wrote it.
    """

    scheme: str
    rest: str

    @classmethod
    def parse(cls, text: str) -> Location:
        """Read a URL or a folder's path; raises :class:`UsageError`, which quotes no secret."""
        found = _SCHEME.fullmatch(text.strip())
        if found is None:
            if not text.strip():
                raise UsageError("a cache has no URL", hint="write a folder or a URL")
            if slip := _SLIP.match(text.strip()):
                scheme = slip[1].lower()
                raise UsageError(
                    f"the cache {scheme}:... is neither a URL nor a folder",
                    hint=f"write {scheme}://, or ./{scheme}: for a folder of that name",
                )
            return cls("file", str(Path(text.strip()).expanduser()))
        scheme, rest = found[1].lower(), found[2].rstrip("/")
        login, at, host = rest.partition("/")[0].rpartition("@")
        if ":" in login or (at and scheme not in ("sftp", "ssh", "abfs", "abfss", "az")):
            raise UsageError(
                f"the cache {scheme}://...@{host}: a login has no place in a URL, which logs show",
                hint=_remedy(scheme),
            )
        if set("?#") & set(rest):
            raise UsageError(
                f"the cache {scheme}://{re.split('[?#]', rest)[0]}?...: what stands behind ? may be"
                " a secret, which logs show",
                hint=_remedy(scheme),
            )
        if not rest.strip("/"):
            raise UsageError(f"the cache {scheme}:// names no place", hint="write a whole URL")
        return cls(scheme, rest)

    def __str__(self) -> str:
        return self.rest if self.scheme == "file" else f"{self.scheme}://{self.rest}"


def _remedy(scheme: str) -> str:
    """Where a login goes instead."""
    if scheme in ("oci", "oci+http"):
        return "log in once: mbuild login HOST"
    if scheme in ("http", "https"):
        return "put the server's token into MBUILD_CACHE_TOKEN"
    return f"{_SECRETS} own tools"


class CacheOptions(NamedTuple):
    """What is asked of shared caches.

    ``sources`` are read, ``target`` is written and read. ``verify`` are files with the public
    keys of those whose records count; any record's does where there are none.
    """

    sources: tuple[Location, ...] = ()
    target: Location | None = None
    verify: tuple[str, ...] = ()

    @classmethod
    def of(cls, sources: Sequence[str], target: str | None, verify: Sequence[str]) -> CacheOptions:
        """What the command line and the environment say; raises :class:`UsageError`.

        ``MBUILD_CACHE`` is one more source, and with ``MBUILD_CACHE_WRITE=1`` the target where
        the command line names none.
        """
        common = os.environ.get(CACHE_VARIABLE, "").strip()
        may_write = os.environ.get(CACHE_WRITE_VARIABLE, "").strip()
        if may_write not in ("", "0", "1"):
            raise UsageError(
                f"{CACHE_WRITE_VARIABLE}={may_write!r} is neither 0 nor 1",
                hint=f"write {CACHE_WRITE_VARIABLE}=1 where builds may fill {CACHE_VARIABLE}",
            )
        written = Location.parse(target) if target is not None else None
        if written is None and common and may_write == "1":
            written = Location.parse(common)
        found = [Location.parse(text) for text in (*sources, *([common] if common else []))]
        read = tuple(place for place in dict.fromkeys(found) if place != written)
        return cls(read, written, tuple(verify))

    @property
    def places(self) -> tuple[Location, ...]:
        """All of them, what is written first."""
        return (*((self.target,) if self.target else ()), *self.sources)
