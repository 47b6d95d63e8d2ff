"""``/api/pull`` and ``/api/push``: from and to the registries that the operator allows.

``insecure`` in a request changes nothing: http is for the registries that were named with it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from mbuild.core.errors import (
    AbsentError,
    MbuildError,
    NameNotFoundError,
    RegistryError,
    UsageError,
)
from mbuild.core.names import InvalidNameError
from mbuild.core.transfers import Direction, Phase, PhaseStarted, TransferEvent
from mbuild.registry.reference import ModelReference
from mbuild.server import shapes
from mbuild.server.building import follow
from mbuild.server.requests import model_name, parse_name, read_json
from mbuild.server.wording import TransferLines

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from mbuild.core.names import ModelName
    from mbuild.server.service import Service
    from mbuild.store import Store

NameT = TypeVar("NameT")
Transfer = Generator[TransferEvent, None, None]


async def pull(service: Service, request: Request) -> Response:
    """Bring a model from a registry into the store; one transfer for all who ask for the same."""
    fields = await read_json(request, shapes.PULL)
    reference = _reference(model_name(fields))
    service.access.check(reference.endpoint)
    local = _named(lambda: reference.local)

    def events() -> Iterator[TransferEvent]:
        from mbuild.registry.transfer.pull import pull as transfer

        return _pulling(transfer(reference, local, service.store(), service.access))

    job = service.transfers.join(f"{Direction.PULL} {reference}", events)
    return await follow(service, request, job, TransferLines(), stream=fields.get("stream"))


async def push(service: Service, request: Request) -> Response:
    """Bring a stored model to the registry that its name says."""
    fields = await read_json(request, shapes.PUSH)
    name = parse_name(model_name(fields))
    reference = _named(lambda: ModelReference.of(name))
    service.access.check(reference.endpoint)

    def events() -> Iterator[TransferEvent]:
        return _pushing(name, reference, service.store(), service)

    job = service.transfers.join(f"{Direction.PUSH} {reference}", events)
    return await follow(service, request, job, TransferLines(), stream=fields.get("stream"))


def _reference(text: str) -> ModelReference:
    return _named(lambda: ModelReference.parse(text))


def _named(find: Callable[[], NameT]) -> NameT:
    """A name, with Ollama's words for one that is none."""
    try:
        return find()
    except InvalidNameError:
        raise UsageError("invalid model name") from None


def _pulling(events: Transfer) -> Iterator[TransferEvent]:
    """The events of a pull; an error about its manifest as Ollama words it."""
    moving = False
    try:
        for event in events:
            moving = moving or not isinstance(event, PhaseStarted)
            yield event
    except RegistryError as error:
        if moving:
            raise
        absent = isinstance(error, AbsentError)
        text = "file does not exist" if absent else error.message
        raise RegistryError(
            f"pull model manifest: {text}", hint="" if absent else error.hint
        ) from None
    finally:
        events.close()


def _pushing(
    name: ModelName, reference: ModelReference, store: Store, service: Service
) -> Iterator[TransferEvent]:
    """The events of a push; of a model that is not here no more than that is said."""
    from mbuild.models.provenance.statements import keep_bill
    from mbuild.registry.transfer.push import push as transfer

    stored = store.manifests.resolve(name)
    if store.manifests.read_bytes(stored) is None:
        yield PhaseStarted(Direction.PUSH, Phase.READING_MANIFEST)
        yield PhaseStarted(Direction.PUSH, Phase.ABSENT)
        raise NameNotFoundError(f"model '{name}' not found")
    with suppress(MbuildError):  # the push says what is wrong with a model
        keep_bill(store, store.manifests.read(stored))
    events = transfer(stored, reference, store, service.access)
    try:
        yield from events
    finally:
        events.close()
