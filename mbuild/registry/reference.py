"""Where a model is in a registry: ``host/path[:tag][@sha256:...]``, and its name in the store."""

from __future__ import annotations

import re

from mbuild.core.digest import Digest, DigestError
from mbuild.core.names import (
    DEFAULT_HOST,
    DEFAULT_NAMESPACE,
    DEFAULT_TAG,
    InvalidNameError,
    ModelName,
)
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple

HUB_HOSTS = frozenset({"hf.co", "huggingface.co"})
"""Hugging Face's registry, whose repositories have upper-case letters."""

OLLAMA_HOSTS = frozenset({DEFAULT_HOST, "ollama.com"})
"""Ollama's registry."""

DOCKER_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
"""Docker Hub's names; all are one registry, which answers under the last."""

DOCKER_ENDPOINT = "registry-1.docker.io"

_KNOWN_HOSTS = HUB_HOSTS | OLLAMA_HOSTS | DOCKER_HOSTS | {"ghcr.io", "quay.io"}
_ADDRESS = regex(r"\d{1,3}(?:\.\d{1,3}){3}")

SCHEMES = ("https", "http")
"""What may stand before a host."""

_PART = regex(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
"""One part of a repository's path, as the OCI's distribution specification has it."""

_ANY_CASE = regex(_PART.pattern, re.IGNORECASE)
_TAG = regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST = regex(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::\d{1,5})?")
_LAST_PORT = 65535
_LONGEST = 255  # characters of a path, as registries limit it
_ALONE = "_"  # the namespace of a repository without one: no registry has such a path
_DEEPER = "___"  # between the parts of a deep path: no registry has three underscores


class ModelReference(NamedTuple):
    """A model in a registry. ``host`` may carry a port; ``digest`` is that of its manifest.

    ``scheme`` is ``https`` or ``http`` where the user wrote it, else empty.
    """

    host: str
    path: str
    tag: str = DEFAULT_TAG
    digest: Digest | None = None
    scheme: str = ""

    @classmethod
    def parse(cls, text: str) -> ModelReference:
        """Read a name with or without a host; raises :class:`InvalidNameError`.

        Without one it is a name of Ollama's registry. The rules for upper case are those of
        the host, so that a wrong name is refused before anybody is asked.
        """
        before, _, after = text.rpartition("://")
        scheme = before.lower() if before.lower() in SCHEMES else ""
        rest, at, digest_text = after.partition("@")
        try:
            digest = Digest.parse(digest_text) if at else None
        except DigestError:
            raise _invalid(text, "after @ must come sha256: and 64 hexadecimal digits") from None
        host, slash, path = rest.partition("/")
        if not slash and _is_host_alone(host):
            raise _invalid(text, f"it is a host alone: write {host}/PATH")
        if not slash or not has_host(rest):
            name = ModelName.parse(rest)
            found = cls(name.host, f"{name.namespace}/{name.model}", name.tag, digest, scheme)
            if name.host != DEFAULT_HOST:  # Ollama's own rules are wider
                found._check(text)
            return found
        tag = DEFAULT_TAG
        if path.rfind(":") > path.rfind("/"):
            path, _, tag = path.rpartition(":")
        reference = cls(host, _full_path(host, path), tag, digest, scheme)
        reference._check(text)
        return reference

    @classmethod
    def of(cls, name: ModelName) -> ModelReference:
        """Where a name of the store leads; raises :class:`InvalidNameError` as :meth:`parse`."""
        namespace = name.namespace.replace(_DEEPER, "/")
        path = name.model if namespace == _ALONE else f"{namespace}/{name.model}"
        digest = None
        if name.tag.startswith("sha256-"):
            try:
                digest = Digest.parse(name.tag)
            except DigestError:
                digest = None
        tag = DEFAULT_TAG if digest else name.tag
        reference = cls(name.host, path, tag, digest)
        reference._check(str(name))
        return reference

    def _check(self, text: str) -> None:
        if not _HOST.fullmatch(self.host):
            raise _invalid(text, f"{self.host!r} is not a host")
        port = self.host.rpartition("]")[2].partition(":")[2]
        if port and not 0 < int(port) <= _LAST_PORT:
            raise _invalid(text, f"a port is a number from 1 to {_LAST_PORT}, not {port}")
        folds = self.host.lower() in HUB_HOSTS | OLLAMA_HOSTS
        pattern = _ANY_CASE if folds else _PART
        for part in self.path.split("/"):
            if not pattern.fullmatch(part):
                upper = part.lower() != part and not folds
                raise _invalid(
                    text,
                    f"{part!r} has upper-case letters, which registries do not allow"
                    if upper
                    else f"{part!r} cannot be part of a repository's name",
                )
        if not self.tag:
            raise _invalid(text, "there is no tag behind the ':'")
        if len(self.path) > _LONGEST:
            raise _invalid(text, f"the path has more than {_LONGEST} characters")
        if not _TAG.fullmatch(self.tag):
            raise _invalid(
                text,
                "a tag has at most 128 letters, digits, '_', '-' and '.',"
                " and does not begin with '-' or '.'",
            )

    @property
    def endpoint(self) -> str:
        """The host that answers, in lower case."""
        host = self.host.lower()
        if host in DOCKER_HOSTS:
            return DOCKER_ENDPOINT
        return DEFAULT_HOST if host in OLLAMA_HOSTS else host

    @property
    def target(self) -> str:
        """What a manifest is asked for by: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest else self.tag

    @property
    def local(self) -> ModelName:
        """The name that the model gets in the store; raises :class:`InvalidNameError`.

        The store has exactly host, namespace, model and tag. A path with one part or with
        more than two, and a digest in place of a tag, are written in ways that no
        registry's names have, so that no two models share a name.
        """
        *spaces, model = self.path.split("/")
        namespace = _DEEPER.join(spaces) or _ALONE
        tag = self.digest.filename if self.digest else self.tag
        host = DEFAULT_HOST if self.host.lower() in OLLAMA_HOSTS else self.host
        try:
            return ModelName.parse(f"{host}/{namespace}/{model}:{tag}")
        except InvalidNameError as error:
            raise InvalidNameError(
                f"{self} cannot keep its own name in a store: {error.message}",
                hint=f"give it one: mbuild pull {self} -t NAME",
            ) from None

    def __str__(self) -> str:
        at = f"@{self.digest}" if self.digest else ""
        tag = "" if at and self.tag in ("", DEFAULT_TAG) else f":{self.tag}"
        return f"{self.host}/{self.path}{tag}{at}"


def is_host(text: str) -> bool:
    """Whether a text is a registry's host, with its port if it has one."""
    try:
        ModelReference.parse(f"{text}:443/a/b" if ":" not in text else f"{text}/a/b")
    except InvalidNameError:
        return False
    return True


def is_tag(text: str) -> bool:
    """Whether a text can be a tag."""
    return bool(_TAG.fullmatch(text))


def has_host(text: str) -> bool:
    """Whether a name begins with a host, as Docker tells it from a namespace.

    A host has a dot or a port in it, or is ``localhost``.
    """
    rest = text.split("://", 1)[-1].partition("@")[0]
    first, slash, _ = rest.partition("/")
    if not slash or not _HOST.fullmatch(first):
        return False
    return "." in first or ":" in first or first.lower() == "localhost"


def _is_host_alone(text: str) -> bool:
    """Whether a text without a path can only be a host: this machine, an address, a known one.

    All else may be a model's name, which may have dots in it and a tag of digits.
    """
    name = text.lower()
    name = name if name.startswith("[") or name.count(":") != 1 else name.partition(":")[0]
    address = name.startswith("[") or _ADDRESS.fullmatch(name) is not None
    return address or name == "localhost" or name in _KNOWN_HOSTS


def _full_path(host: str, path: str) -> str:
    """The path in the registry; Ollama's and Docker's have ``library`` for one that is short."""
    short = "/" not in path
    hosts = OLLAMA_HOSTS | DOCKER_HOSTS
    return f"{DEFAULT_NAMESPACE}/{path}" if short and host.lower() in hosts else path


def _invalid(text: str, why: str) -> InvalidNameError:
    return InvalidNameError(
        f"{text[:300]!r} is not the name of a model in a registry: {why}",
        hint="a name is host/path[:tag] or host/path@sha256:..., with the path in lower case",
    )
