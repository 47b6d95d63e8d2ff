"""Files that are no Modelfiles, by what they are instead.

Looked at only where a file cannot be read as a Modelfile: whatever Ollama takes is one.
"""

from __future__ import annotations

import re

from mbuild.core.values import NamedTuple

HEAD = 4096
"""Bytes from the start of a file that recognition looks at."""

DOCKER = (
    "RUN CMD COPY ADD ENTRYPOINT WORKDIR ENV EXPOSE VOLUME LABEL ARG HEALTHCHECK SHELL"
    " STOPSIGNAL ONBUILD MAINTAINER"
)
"""Instructions that a Dockerfile has and a Modelfile has not."""

_OWN = "PARAMETER|TEMPLATE|SYSTEM|ADAPTER|MESSAGE|LICENSE|RENDERER|PARSER|REQUIRES|DRAFT"
MODCTL = "NAME ARCH FAMILY FORMAT PARAMSIZE PRECISION QUANTIZATION CONFIG MODEL CODE DATASET DOC"
"""Instructions of modctl's Modelfile (CNCF ModelPack), whose format shares only the name."""


class ForeignKind(NamedTuple):
    """One kind of file: a pattern of its first bytes, what it is, a remedy.

    ``unless`` is a pattern that tells that it is not of this kind.
    """

    pattern: bytes
    what: str
    hint: str
    unless: bytes = b"(?!)"


def _one_of(words: str) -> bytes:
    """A line that begins with one of these words, as it would be an instruction."""
    return rb"(?m)^[ \t]*(?:" + words.replace(" ", "|").encode() + rb")[ \t]"


_MODEL_HINT = "write FROM ./{name} into a Modelfile, and build that one"
_FOLDER_HINT = "write FROM and the checkpoint's folder into a Modelfile, and build that one"

KINDS: tuple[ForeignKind, ...] = (
    ForeignKind(rb"GGUF|FUGG", "a GGUF file, a model and not a Modelfile", _MODEL_HINT),
    ForeignKind(
        rb"(?s).{8}\{\s*\"", "a safetensors file, weights and not a Modelfile", _FOLDER_HINT
    ),
    ForeignKind(
        rb"PK\x03\x04|\x80[\x02-\x05]",
        "a PyTorch checkpoint or another archive, not a Modelfile",
        _FOLDER_HINT,
    ),
    ForeignKind(rb"\x1f\x8b|\x28\xb5\x2f\xfd|BZh|\xfd7zXZ", "a compressed file", "unpack it first"),
    ForeignKind(
        rb"version https://git-lfs",
        "a git-lfs pointer, not the file itself",
        "fetch the content with git lfs pull",
    ),
    ForeignKind(
        rb"(?i)\s*<(?:!doctype\s+html|html|head)",
        "an HTML page: the download got a web page",
        "download the file itself",
    ),
    ForeignKind(
        rb"(?m)^(?:manifestVersion|kitVersion)[ \t]*:",
        "a Kitfile, of KitOps",
        "write a Modelfile: FROM and the path that the Kitfile's model has",
    ),
    ForeignKind(
        rb"(?m)^services[ \t]*:",
        "a compose file, of Docker",
        "name a Modelfile",
    ),
    ForeignKind(rb"\s*\{\s*(?:\"|\})", "JSON text, not a Modelfile", "name a Modelfile"),
    ForeignKind(rb"#!", "a script, not a Modelfile", "name a Modelfile"),
    ForeignKind(
        rb"(?m)^---[ \t]*\r?$",
        "YAML or a model card, not a Modelfile",
        "name a Modelfile",
        _one_of(_OWN.replace("|", " ") + " FROM"),
    ),
    ForeignKind(
        _one_of("RUN CMD COPY ADD ENTRYPOINT WORKDIR EXPOSE"),
        "a Dockerfile, not a Modelfile",
        "build it with docker build; a Modelfile has FROM with a model, PARAMETER, SYSTEM",
        _one_of(_OWN.replace("|", " ") + " " + MODCTL),
    ),
    ForeignKind(
        rb"(?m)^[ \t]*(?:%s)[ \t].*\n(?:.*\n)*?[ \t]*(?:%s)[ \t]"
        % ((MODCTL.replace(" ", "|").encode(),) * 2),
        "modctl's Modelfile (CNCF ModelPack), not Ollama's",
        "build it with modctl build; Ollama's Modelfile begins with FROM",
        _one_of(_OWN.replace("|", " ") + " FROM"),
    ),
)
"""What is often found in a Modelfile's place; the first match is named."""


def recognise(data: bytes, name: str) -> tuple[str, str] | None:
    """What a file is that is no Modelfile, and what to do; None where nobody knows.

    ``name`` is the file's own name, without folders.
    """
    head = data[:HEAD]
    for kind in KINDS:
        anywhere = kind.pattern.startswith(b"(?m)")
        found = re.search(kind.pattern, head) if anywhere else re.match(kind.pattern, head)
        if found and not re.search(kind.unless, head):
            return kind.what, kind.hint.format(name=name)
    return None
