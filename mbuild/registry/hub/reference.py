"""Where a checkpoint is on the Hub: ``hf.co/ORG/REPO[@REVISION]``."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from mbuild.core.errors import UnreachableError, UsageError
from mbuild.core.names import InvalidNameError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.registry.reference import HUB_HOSTS, ModelReference

DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_REVISION = "main"

_PREFIXES = tuple(f"{host}/" for host in sorted(HUB_HOSTS))
_PART = regex(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
"""An owner or a repository, as ``huggingface_hub.utils.validate_repo_id`` has it."""

_TREES = ("tree", "commit")
"""What stands between a repository and a revision in the addresses of the Hub's pages."""

_REVISION = regex(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,249}")
_COMMIT = regex(r"[0-9a-f]{40}")


class HubReference(NamedTuple):
    """A repository of the Hub, ``owner/name``, and a branch, tag or commit of it."""

    repository: str
    revision: str = DEFAULT_REVISION

    @classmethod
    def parse(cls, text: str) -> HubReference:
        """Read ``hf.co/ORG/REPO[@REVISION]``, or the address of a page that shows that.

        Raises :class:`InvalidNameError`.
        """
        rest = text.split("://", 1)[-1]
        host, _, path = rest.partition("/")
        path, at, revision = path.rstrip("/").partition("@")
        parts = path.split("/")
        if len(parts) == 4 and parts[2] in _TREES and not at:
            at, revision = "@", unquote(parts.pop())
            path = "/".join(parts[:2])
            parts.pop()
        if host.lower() not in HUB_HOSTS or len(parts) != 2:
            raise _invalid(text, "a repository of the Hub has an owner and a name")
        for part in parts:
            if not _PART.fullmatch(part) or ".." in part or "--" in part:
                raise _invalid(text, f"{part!r} cannot be part of a repository's name")
        if at and (not _REVISION.fullmatch(revision) or ".." in revision):
            raise _invalid(text, f"{revision!r} is not a branch, a tag or a commit")
        return cls(path, revision or DEFAULT_REVISION)

    @property
    def is_commit(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return _COMMIT.fullmatch(self.revision) is not None

    @property
    def name(self) -> str:
        """The repository's own name, after which a model is called."""
        return self.repository.rpartition("/")[2]

    def __str__(self) -> str:
        at = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"hf.co/{self.repository}{at}"


def names_the_hub(value: str) -> bool:
    """Whether a value can only mean a repository of the Hub; most values cannot."""
    return value.split("://", 1)[-1].lower().startswith(_PREFIXES)


def endpoint() -> str:
    """The Hub's address: ``$HF_ENDPOINT`` for a mirror; raises :class:`UsageError`."""
    text = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or DEFAULT_ENDPOINT
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise UsageError(
            f"HF_ENDPOINT={text!r} is not a web address",
            hint=f"unset it, or write for example HF_ENDPOINT={DEFAULT_ENDPOINT}",
        )
    return text


class Mirror(NamedTuple):
    """Where the Hub's registry is to be had: scheme, host and the path before ``/v2/``.

    All are empty for any registry under its own name.
    """

    scheme: str = ""
    host: str = ""
    path: str = ""


def mirror(reference: ModelReference) -> Mirror:
    """What stands for the Hub where a reference names its registry, as in llama.cpp.

    Raises :class:`UnreachableError` where ``$HF_HUB_OFFLINE`` forbids to ask the Hub.
    """
    if reference.host.lower() not in HUB_HOSTS:
        return Mirror()
    if is_offline():
        raise UnreachableError(
            f"{reference} is not here, and HF_HUB_OFFLINE forbids fetching it",
            hint="unset HF_HUB_OFFLINE, or build once with a network",
        )
    parts = urlsplit(endpoint())
    host = parts.netloc.rpartition("@")[2].lower()
    return Mirror() if host in HUB_HOSTS else Mirror(parts.scheme, host, parts.path)


def is_offline() -> bool:
    """Whether ``$HF_HUB_OFFLINE`` forbids requests, as huggingface_hub reads it."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE")


def _invalid(text: str, why: str) -> InvalidNameError:
    return InvalidNameError(
        f"{text[:300]!r} is not the name of a repository of the Hub: {why}",
        hint="write hf.co/ORG/REPO, hf.co/ORG/REPO@REVISION or, for GGUF, hf.co/ORG/REPO:QUANT",
    )
