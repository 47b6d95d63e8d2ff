"""Run in a child process: encode and decode with the ``tokenizers`` package.

A tokenizer.json holds regular expressions and replacements of its maker's
choice, which can take forever or eat all memory; so they are run apart from
the build, with limits on processor time and memory. The parent starts this
file with its own interpreter, writes one JSON request to standard input and
reads one JSON answer from standard output. Nothing of mbuild is imported.

Arguments: the limits, seconds of processor time and bytes of memory.
Request: ``tokenizer`` (a tokenizer.json as text), ``text`` to encode (or
null), ``decode`` (texts of tokens, to be put through the decoder one by one).
Answer: ``ids`` (with the post-processor's special tokens), ``bare`` (without)
and ``decoded``; or ``error``.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def limit_resources(seconds: int, memory: int) -> None:
    """Bound this process's processor time, and its memory in bytes, where the system can."""
    import resource

    for which, value in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory)):
        try:
            resource.setrlimit(which, (value, value))
        except (OSError, ValueError):
            continue


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(request["tokenizer"])
    result: dict[str, Any] = {}
    if request["text"] is not None:
        result["ids"] = tokenizer.encode(request["text"]).ids
        result["bare"] = tokenizer.encode(request["text"], add_special_tokens=False).ids
    decoder = tokenizer.decoder
    result["decoded"] = [decoder.decode([t]) if decoder else t for t in request["decode"]]
    return result


def main() -> None:
    """Answer one request."""
    limit_resources(*(int(limit) for limit in sys.argv[1:3]))
    try:
        result = answer(json.load(sys.stdin))
    except ImportError as error:
        result = {"missing": str(error)}
    except BaseException as error:  # a panic in Rust is no Exception
        result = {"error": f"{error}"[:500]}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
