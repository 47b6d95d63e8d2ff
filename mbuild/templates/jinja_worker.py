"""Renders a Jinja chat template, in a process of its own with hard limits.

Run as ``python -m mbuild.templates.jinja_worker``: a request as JSON on standard
input, ``{"template", "bos", "eos", "renderings": [{"messages", "generate",
"date", "thinks"}]}``, and on standard output a JSON list with one item a rendering: the
text, or null where the template refuses. Chat templates are programs that come
with downloaded models: they see nothing but the messages, may neither import
nor include, and run in jinja2's sandbox under limits of time and memory.
"""

from __future__ import annotations

import datetime
import json
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.parser import Parser

MEMORY = 512 << 20
"""Bytes of address space; a template that multiplies strings meets it."""

CPU_SECONDS = 0.8
"""Seconds of processor time, the interpreter's start included."""

TEMPLATE_SECONDS = 0.4
"""Seconds that a template has in any case, where starting took longer than it should."""

MAX_OUTPUT = 128 << 10
"""Characters that one rendering may write."""

MAX_FACTOR = 100_000
"""The longest text or list that ``*`` may make, and the largest power."""


class Generation(Extension):
    """``{% generation %}...{% endgeneration %}``, which marks what the model wrote."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body alone: the mark is for training."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox with the arithmetic that makes large values held back."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Refuses at once what jinja2 would let pass as an undefined value."""
        raise SecurityError(f"the attribute {attribute!r} is not for templates")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuses products, powers and formatted texts that would be large."""
        if operator == "*":
            size = max((len(x) for x in (left, right) if hasattr(x, "__len__")), default=0)
            count = max((x for x in (left, right) if isinstance(x, int)), default=0)
            if size * count > MAX_FACTOR:
                raise TemplateError("a product is too large")
        elif operator == "**" and (abs(left) > MAX_FACTOR or abs(right) > 64):
            raise TemplateError("a power is too large")
        elif operator == "%" and isinstance(left, str):
            raise TemplateError("formatting a text with % is not supported")
        return super().call_binop(context, operator, left, right)


def environment() -> Sandbox:
    """The environment in which the Hugging Face libraries render chat templates."""
    sandbox = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        extensions=["jinja2.ext.loopcontrols", Generation],
    )
    sandbox.filters["tojson"] = _tojson
    sandbox.globals["raise_exception"] = _refuse
    for name in ("lipsum", "cycler", "joiner"):
        del sandbox.globals[name]
    return sandbox


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(str(message)[:1000])


def _render(template: Template, request: dict[str, Any], rendering: dict[str, Any]) -> str | None:
    thinks = rendering["thinks"]
    thoughts = {} if thinks is None else {"enable_thinking": thinks}
    day = datetime.datetime.fromisoformat(rendering["date"])
    parts = []
    size = 0
    try:
        for part in template.generate(
            messages=rendering["messages"],
            add_generation_prompt=rendering["generate"],
            bos_token=request["bos"],
            eos_token=request["eos"],
            tools=None,
            documents=None,
            strftime_now=day.strftime,
            **thoughts,
        ):
            parts.append(part)
            size += len(part)
            if size > MAX_OUTPUT:
                return None
    except (MemoryError, RecursionError):
        raise
    except Exception:
        # Whatever a template's own expressions raise means that it refuses the messages.
        return None
    return "".join(parts)


def _limit() -> None:
    """Limit this process before it sees a template; the modules for it are loaded by now."""
    started = time.process_time()
    left = max(TEMPLATE_SECONDS, CPU_SECONDS - started)
    try:
        import resource
    except ImportError:
        return  # Windows: the parent's clock is the only limit.
    for kind, most in (
        ("RLIMIT_AS", MEMORY),
        ("RLIMIT_CPU", int(started + left) + 1),  # whole seconds; the timer is finer
        ("RLIMIT_FSIZE", 1 << 20),
        ("RLIMIT_CORE", 0),
    ):
        try:
            resource.setrlimit(getattr(resource, kind), (most, most))
        except (OSError, ValueError):
            pass  # macOS does not limit address space.
    # Nothing handles the signal, so it ends the process.
    signal.setitimer(signal.ITIMER_PROF, left)


def main() -> None:
    """Serves one request."""
    jinja = environment()
    _limit()
    request = json.load(sys.stdin)
    try:
        template = jinja.from_string(request["template"])
        texts = [_render(template, request, item) for item in request["renderings"]]
    except Exception:
        texts = [None] * len(request["renderings"])
    json.dump(texts, sys.stdout)


if __name__ == "__main__":
    main()
