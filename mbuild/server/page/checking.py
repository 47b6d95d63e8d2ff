"""``check`` for the editor: what is wrong with a Modelfile, while it is written.

The text is looked at as a request's ``modelfile`` is: no file of this machine is opened because it
is named, and what names one is marked.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.responses import JSONResponse, Response

from mbuild.build.sources.places import is_path
from mbuild.build.sources.posted import FOLDER, UPLOAD_HINT, parse_files
from mbuild.build.staging import NoFiles
from mbuild.core.errors import MbuildError, ModelfileError
from mbuild.core.names import InvalidNameError
from mbuild.language.instructions import Adapter, Draft, From, Instruction, Problem
from mbuild.language.stages.opening import opens_stages
from mbuild.registry.reference import has_host
from mbuild.registry.stored import stored_name
from mbuild.server import shapes
from mbuild.server.requests import TooLargeError, read_json
from mbuild.store.absent import about_absent

if TYPE_CHECKING:
    from starlette.requests import Request

    from mbuild.server.service import Service
    from mbuild.store import Store

MAX_TEXT = 1 << 20
"""Characters of a text that is checked at every key: a build takes longer ones."""

MAX_MARKS = 200


async def check(service: Service, request: Request) -> Response:
    """The problems of a Modelfile's text, in the order of its lines."""
    fields = await read_json(request, shapes.CHECK)
    text = fields.get("modelfile", "")
    if len(text) > MAX_TEXT:
        raise TooLargeError("the Modelfile is too large to be checked while it is written")
    names = parse_files(fields.get("files", {}))
    found = await to_thread.run_sync(problems, text, service.store(), names)
    return JSONResponse({"problems": [_mark(each, service) for each in found[:MAX_MARKS]]})


def _mark(problem: Problem, service: Service) -> dict[str, Any]:
    """A problem as ``mbuild check --format json`` has it, and how many characters it marks."""
    span = problem.span
    return {
        "severity": problem.severity.value,
        "code": problem.code,
        "message": service.scrub(problem.message),
        "suggestion": service.scrub(problem.suggestion),
        "line": span.line if span else None,
        "column": span.column if span else None,
        "length": max(1, span.end - span.start) if span else None,
    }


def problems(text: str, store: Store, files: Collection[str] = ()) -> list[Problem]:
    """What ``mbuild check`` says of a text, and what a build here would say of its sources.

    ``files`` are the names of those that were sent for it.
    """
    data = text.encode()
    try:
        instructions, found = _checked(data)
    except ModelfileError as error:
        instructions, found = _parsed(data), [*error.problems]
    except MbuildError as error:
        return [Problem(error.message, suggestion=error.hint)]
    found += _sources(instructions, store, files)
    return sorted(found, key=lambda problem: problem.span.start if problem.span else 0)


def _checked(data: bytes) -> tuple[list[Instruction], list[Problem]]:
    """The instructions of all stages, and warnings; raises :class:`ModelfileError`."""
    if opens_stages(data):
        from mbuild.lint.stages import check_stages

        checked = check_stages(data, "modelfile", NoFiles())
        return [i for stage in checked.every for i in stage.instructions], [*checked.warnings]
    from mbuild.lint import check as lint

    modelfile, warnings = lint(data, "modelfile")
    return [*modelfile.instructions], [*warnings]


def _parsed(data: bytes) -> list[Instruction]:
    """The instructions of a text that means nothing good but is one, in Ollama's language."""
    from mbuild.language.parser import parse

    try:
        return [] if opens_stages(data) else [*parse(data, "modelfile").instructions]
    except ModelfileError:
        return []


def _sources(
    instructions: Iterable[Instruction], store: Store, files: Collection[str]
) -> Iterator[Problem]:
    """What names a file, and models that are not in the store."""
    seen = set()
    for item in instructions:
        if not isinstance(item, (From, Adapter, Draft)) or (item.span, item.plain) in seen:
            continue
        seen.add((item.span, item.plain))
        value = item.plain
        if value.removeprefix("@").startswith("sha256") or _was_sent(value, files):
            continue
        if is_path(value) or not isinstance(item, From):
            yield Problem(
                f"{item.word} {value}: no file is opened because a request names it",
                item.span,
                code="no-files-here",
                suggestion=UPLOAD_HINT,
            )
        elif not has_host(value) and not _is_there(value, store):
            yield Problem(
                f"model {value!r} is not in this store",
                item.span,
                code="no-such-model",
                suggestion=about_absent(store, value),
            )


def _was_sent(value: str, files: Collection[str]) -> bool:
    """Whether a value names a file that was sent, a folder of such, or all of them."""
    name = posixpath.normpath(value)
    return bool(files) and (
        name == FOLDER or name in files or any(each.startswith(f"{name}/") for each in files)
    )


def _is_there(value: str, store: Store) -> bool:
    try:
        name = store.manifests.resolve(stored_name(value, store))
    except InvalidNameError:
        return False
    return store.manifests.read_bytes(name) is not None
