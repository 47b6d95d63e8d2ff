"""The process that statistics are computed in: ``python -m mbuild.runtime.statistics.program``.

It reads one line of JSON, the job, and writes lines of JSON: progress, the result, or an
error. What crashes in llama.cpp crashes here.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from mbuild.core.errors import MbuildError
from mbuild.runtime.child import die_with_parent


def main() -> None:
    """Do one job."""
    job = json.loads(sys.stdin.readline())
    try:
        result = _imatrix(job) if job["kind"] == "imatrix" else _measure(job)
        _say({"result": result})
    except MbuildError as error:
        _say({"error": error.message, "hint": error.hint})
    sys.stdout.flush()
    os._exit(0)


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _imatrix(job: dict[str, Any]) -> dict[str, Any]:
    from mbuild.runtime.statistics.importances import collect, unseen_experts, write_importances
    from mbuild.runtime.statistics.state import KeptSums

    text = Path(job["text"]).read_bytes()
    kept = KeptSums(Path(job["state"])) if job.get("state") else None
    done, sums = kept.read() if kept is not None else (0, {})
    settings = (job["n_ctx"], job["chunks"], job["threads"])
    model, special = job["model"], job["special"]
    work = collect(model, text, *settings, special=special, kept=(done, sums))
    for done, chunks, collector in work:
        _say(chunks.done(done))
        if kept is not None:
            kept.write(done, collector.sums)
    write_importances(Path(job["output"]), sums, job["name"], done, job["n_ctx"])
    return {"chunks": done, "tensors": len(sums), "unseen": unseen_experts(sums)}


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    from mbuild.runtime.statistics.quality import Tally, measure

    text = Path(job["text"]).read_bytes()
    tally = Tally()
    settings = (job["n_ctx"], job["chunks"], job["threads"])
    for done, chunks, found in measure(job["model"], job["against"], text, *settings):
        _say(chunks.done(done))
        tally = found
    return tally.quality()._asdict()


if __name__ == "__main__":
    die_with_parent()
    main()
