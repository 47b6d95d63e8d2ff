"""Every endpoint, in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse

from mbuild.server import (
    blobs,
    building,
    distribution,
    gate,
    inference,
    messages,
    models,
    openai,
    openapi,
    pushes,
    responses,
    shapes,
    teamcache,
    transfers,
)
from mbuild.server.page import assets, builds, checking, stored, watch
from mbuild.server.service import Endpoint

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from mbuild.server.service import Service


async def root(service: Service, request: Request) -> Response:
    """Ollama's own words, which clients look for; to a browser the page."""
    if opens_page(service, request):
        return assets.start(request)
    return PlainTextResponse("Ollama is running")


def opens_page(service: Service, request: Request) -> bool:
    """Whether a request for ``/`` wants the page, which has nothing of the store and no token."""
    return assets.wants_page(request.headers.get("accept", ""))


def everybody(service: Service, request: Request) -> bool:
    """That a request needs no token."""
    return True


async def version(service: Service, request: Request) -> Response:
    """The version of the API that clients may expect; this server's own is in the documents."""
    return JSONResponse({"version": API_VERSION}, media_type=models.JSON_TYPE)


async def status(service: Service, request: Request) -> Response:
    """Ollama's cloud models are not here."""
    answer = {"cloud": {"disabled": True, "source": "env"}}
    return JSONResponse(answer, media_type=models.JSON_TYPE)


async def document(service: Service, request: Request) -> Response:
    """The OpenAPI document of this table."""
    return JSONResponse(openapi.describe(ROUTES))


async def docs(service: Service, request: Request) -> Response:
    """The same as a page for people."""
    return HTMLResponse(
        openapi.page(ROUTES), headers={"Content-Security-Policy": openapi.PAGE_POLICY}
    )


API_VERSION = "0.32.15"
"""The version of Ollama whose API this is; clients compare it with what they need."""

GET = ("GET", "HEAD")

_BUILD = "/api/mbuild/builds/{id}"

_UPLOADS = "/v2/{name:path}/blobs/uploads/"

ROUTES: tuple[Endpoint, ...] = (
    Endpoint(GET, "/", root, "Says that the server runs; to browsers the page", is_open=opens_page),
    Endpoint(GET, "/page/{name}", assets.asset, "A file of the page", is_open=everybody),
    Endpoint(GET, "/api/version", version, "Version of the API"),
    Endpoint(GET, "/api/status", status, "Says that there are no cloud models"),
    Endpoint(("POST",), "/api/create", building.create, "Build a model", shapes.CREATE),
    Endpoint(("HEAD",), "/api/blobs/{digest}", blobs.head, "Ask for a blob"),
    Endpoint(("POST",), "/api/blobs/{digest}", blobs.upload, "Upload a blob", binary=True),
    Endpoint(GET, "/api/tags", models.tags, "List the models"),
    Endpoint(("POST",), "/api/show", models.show, "Show a model", shapes.SHOW),
    Endpoint(("POST",), "/api/copy", models.copy, "Copy a model", shapes.COPY),
    Endpoint(("DELETE",), "/api/delete", models.delete, "Delete a model", shapes.DELETE),
    Endpoint(("GET",), "/api/ps", inference.ps, "List the running models"),
    Endpoint(("POST",), "/api/pull", transfers.pull, "Pull a model", shapes.PULL),
    Endpoint(("POST",), "/api/push", transfers.push, "Push a model", shapes.PUSH),
    Endpoint(("POST",), "/api/generate", inference.generate, "Complete", shapes.GENERATE),
    Endpoint(("POST",), "/api/chat", inference.chat, "Answer a conversation", shapes.CHAT),
    Endpoint(("POST",), "/api/embed", inference.embed, "Vectors of texts", shapes.EMBED),
    Endpoint(("POST",), "/api/embeddings", inference.embeddings, "One vector", shapes.EMBEDDINGS),
    Endpoint(("GET",), "/api/mbuild/about", stored.about, "Version and types of quantization"),
    Endpoint(("GET",), "/api/mbuild/models/{name:path}", stored.model, "A model and its layers"),
    Endpoint(("GET",), "/api/mbuild/layers", stored.layers, "Layers that models share"),
    Endpoint(("GET",), "/api/mbuild/disk", stored.disk, "What takes the space, as mbuild du"),
    Endpoint(("POST",), "/api/mbuild/check", checking.check, "Check a Modelfile", shapes.CHECK),
    Endpoint(("POST",), "/api/mbuild/uploads", blobs.take, "Keep a file for a build", binary=True),
    Endpoint(("GET",), "/api/mbuild/builds", builds.index, "Running and past builds"),
    Endpoint(("POST",), "/api/mbuild/builds", builds.start, "Start a build", shapes.CREATE),
    Endpoint(("GET",), _BUILD, builds.show, "One build and its graph"),
    Endpoint(("DELETE",), _BUILD, builds.stop, "Stop a build"),
    Endpoint(
        ("GET",),
        builds.REPORT_PATH,
        builds.report,
        "The report of a build, as a page",
        is_open=builds.may_read_report,
    ),
    Endpoint(("GET",), "/api/mbuild/watch", watch.watch, "What changes, line by line"),
    Endpoint(("GET",), "/v1/models", models.v1_models, "List the models as OpenAI does"),
    Endpoint(("GET",), "/v1/models/{model:path}", models.v1_model, "Show one as OpenAI does"),
    Endpoint(
        ("POST",), "/v1/chat/completions", openai.chat, "Answer as OpenAI does", shapes.V1_CHAT
    ),
    Endpoint(("POST",), "/v1/completions", openai.complete, "Complete so", shapes.V1_COMPLETION),
    Endpoint(
        ("POST",), "/v1/responses", responses.create, "Answer in its new form", shapes.V1_RESPONSES
    ),
    Endpoint(
        ("POST",), messages.PATH, messages.create, "Answer as Anthropic does", shapes.V1_MESSAGES
    ),
    Endpoint(("POST",), "/v1/embeddings", openai.embeddings, "Vectors so", shapes.V1_EMBEDDINGS),
    Endpoint(GET, "/cache/ac/{key}", teamcache.get, "A record of the shared cache"),
    Endpoint(("PUT",), "/cache/ac/{key}", teamcache.put_record, "Keep one", binary=True),
    Endpoint(("DELETE",), "/cache/ac/{key}", teamcache.remove, "Remove one"),
    Endpoint(GET, "/cache/cas/{key}", teamcache.get, "Bytes by their SHA-256"),
    Endpoint(("PUT",), "/cache/cas/{key}", teamcache.put_blob, "Keep bytes", binary=True),
    Endpoint(("DELETE",), "/cache/cas/{key}", teamcache.remove, "Remove bytes"),
    Endpoint(("GET",), "/cache/objects", teamcache.listing, "What the shared cache holds"),
    Endpoint(GET, "/v2/", distribution.start, "Says that this is a registry"),
    Endpoint(("GET",), gate.TOKEN_PATH, gate.token, "A token for /v2/"),
    Endpoint(("POST",), gate.TOKEN_PATH, gate.token, "The same for a form", binary=True),
    Endpoint(GET, "/v2/_catalog", distribution.catalog, "The names of all models"),
    Endpoint(
        GET,
        "/v2/{name:path}/manifests/{reference}",
        distribution.manifest,
        "A model's manifest, by tag or digest",
    ),
    Endpoint(GET, "/v2/{name:path}/blobs/{digest}", distribution.blob, "A model's blob"),
    Endpoint(("POST",), _UPLOADS, pushes.begin, "Begin the upload of a blob, with --writable"),
    Endpoint(("GET",), _UPLOADS + "{upload}", pushes.status, "How far an upload is"),
    Endpoint(("DELETE",), _UPLOADS + "{upload}", pushes.cancel, "Give an upload up"),
    Endpoint(("PATCH",), _UPLOADS + "{upload}", pushes.part, "A part of a blob", binary=True),
    Endpoint(("PUT",), _UPLOADS + "{upload}", pushes.end, "End an upload", binary=True),
    Endpoint(
        ("PUT",),
        "/v2/{name:path}/manifests/{reference}",
        pushes.manifest,
        "Give a model its tag, with --writable",
        binary=True,
    ),
    Endpoint(GET, "/v2/{name:path}/tags/list", distribution.tags, "The tags of a model"),
    Endpoint(
        GET,
        "/v2/{name:path}/referrers/{digest}",
        distribution.referrers,
        "The other forms of a model's manifest",
    ),
    Endpoint(("GET",), "/docs", docs, "This page"),
    Endpoint(("GET",), "/openapi.json", document, "The OpenAPI document"),
)
"""Methods, path, handler, summary, body."""
