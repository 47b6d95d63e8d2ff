"""``mbuild serve``: Ollama's model-management API over HTTP."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbuild.cli.common import cache_options, caches_asked, open_store, store_option
from mbuild.core.errors import UsageError
from mbuild.store.place import check_place
from mbuild.store.serving import Serving

if TYPE_CHECKING:
    from mbuild.server.security import AccessPolicy
    from mbuild.server.service import Service
    from mbuild.store import Store

EPILOG = """\
\b
Examples:
  mbuild serve                               on 127.0.0.1:11434, as Ollama
  mbuild serve --port 11500 --upstream http://127.0.0.1:11434
  MBUILD_TOKEN=secret mbuild serve --host 0.0.0.0
"""


@click.command("serve", epilog=EPILOG)
@store_option
@click.option("--host", metavar="HOST[:PORT]", help="Address to listen on  [default: 127.0.0.1]")
@click.option("--port", metavar="PORT", type=int, help="Port  [default: 11434; 0: any free one]")
@click.option("--token", metavar="TOKEN", help="Require Authorization: Bearer TOKEN.")
@click.option("--insecure-no-auth", is_flag=True, help="Accept other machines without a token.")
@click.option("--allow-host", metavar="NAME", multiple=True, help="Accept this host name too.")
@click.option(
    "--upstream", metavar="URL", help="Address of an Ollama or llama-server that runs the models."
)
@click.option(
    "--llama-server",
    metavar="PATH",
    help="Run models by this llama-server, for example one for a GPU"
    "  [default: $MBUILD_LLAMA_SERVER, else the extra's engine]",
)
@click.option("--no-run", is_flag=True, help="Build models only; do not run them.")
@click.option(
    "--registry",
    "registries",
    metavar="HOST",
    multiple=True,
    help="A registry that requests may pull from and push to, beside Ollama's and the Hub's;"
    " http://HOST for one without TLS.",
)
@click.option(
    "--cache",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Be the shared cache of other machines, in this folder: --cache-to http://HOST:PORT/cache",
)
@cache_options
@click.option("--writable", is_flag=True, help="Accept pushes to /v2/, too.")
@click.option(
    "--ollama-keys",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Public keys of Ollama, one a line, that /v2/ takes in place of the token.",
)
@click.option(
    "--builds",
    metavar="N",
    type=click.IntRange(1, 64),
    help="How many builds may run at once  [default: 4]",
)
@click.option(
    "--log",
    type=click.Choice(["text", "json", "off"]),
    default="text",
    help="One line for each request on standard error  [default: text]",
)
@click.pass_context
def serve_command(ctx: click.Context, /, *, store: str | None, **options: Any) -> None:
    """Serve Ollama's API for building and managing models.

    A browser that opens its address gets a page: models, builds as they run, an editor.

    Its builds use the shared caches of --cache-from and --cache-to; --cache makes it one.

    OLLAMA_HOST gives host and port, OLLAMA_ORIGINS further origins of web
    pages, MBUILD_TOKEN the token. Only this machine is served unless there is
    a token, or --insecure-no-auth.
    """
    from mbuild.server import run, security

    variable = os.environ.get(security.HOST_VARIABLE, "")
    host, port = security.address_of(variable, options["host"], options["port"])
    token = options["token"] or os.environ.get(security.TOKEN_VARIABLE, "")
    policy = security.make_policy(
        host, token, options["allow_host"], insecure=options["insecure_no_auth"]
    )
    opened = open_store(ctx, store)
    service = _service(opened, policy, token, options)
    sock = run.listen(host, port)
    line = f"serving {opened.root} on {run.url_of(sock)}"
    serving = Serving(opened.private)
    serving.announce(run.url_of(sock), runs=service.runs_models)
    try:
        run.serve(service, sock, lambda: click.echo(line, err=True))
    finally:
        serving.end()


def _service(
    opened: Store, policy: AccessPolicy, token: str, options: Mapping[str, Any]
) -> Service:
    """What the options ask to serve, on a store that is there and that a server may use."""
    from mbuild.cli.running import engine_of
    from mbuild.server.security import keys_of
    from mbuild.server.service import Service, ServiceOptions
    from mbuild.server.upstream import Upstream

    keys = keys_of(options["ollama_keys"], token)
    upstream = options["upstream"]
    instead = "--no-run" if options["no_run"] else "--upstream" if upstream is not None else ""
    if options["llama_server"] is not None and instead:
        raise UsageError(
            f"--llama-server has no effect with {instead}", hint="leave one of the two out"
        )
    if upstream is not None:
        upstream = Upstream.parse(upstream, drops_authorization=bool(token))
    caching = caches_asked(options)
    if caching is not None:
        from mbuild.shared.attach import check

        check(caching)
    if not opened.root.is_dir():
        opened.prepare()
    check_place(opened.root)
    asked = ServiceOptions(
        options["builds"] or 0,
        options["log"],
        options["registries"],
        options["writable"],
        engine_of(options["llama_server"], off=bool(instead)),
        keys,
        options["cache"],
        caching,
    )
    return Service(opened.root, policy, upstream, asked)
