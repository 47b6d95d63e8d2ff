"""Events of a build in the words that people read: the only place of the command line's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mbuild.cli.common import printable
from mbuild.core.events import (
    BuildEvent,
    BuildFinished,
    Code,
    Explained,
    LayerReady,
    ModelBuilt,
    PartFinished,
    Reason,
    Replaced,
    Status,
    StepFinished,
    Warned,
    WritingManifest,
)
from mbuild.core.units import human_duration, human_size

STATUSES: Mapping[Code, str] = {
    Code.WAITING_FOR_PRUNE: "waiting for another mbuild, which is removing blobs",
    Code.WAITING_FOR_BUILDS: "waiting for other builds to finish",
    Code.PULLING_MANIFEST: "pulling manifest",
    Code.PARSING_GGUF: "parsing GGUF",
    Code.CONVERTING_MODEL: "converting model",
    Code.CONVERTING_ADAPTER: "converting adapter",
    Code.QUANTIZING: "quantizing {source} model to {target}",
    Code.COMPILING_QUANTIZERS: "compiling quantizers for {types}{once}",
    Code.WORKERS: "computing on {place}, {threads} tasks at a time",
    Code.REUSED_TENSORS: "reused {reused} of {total} quantized tensors",
    Code.NEWLY_QUANTIZED: "newly quantized: {tensors}",
    Code.CHOSEN_TYPES: "chose types for {size}, {bits} bits a weight; the same again: {again}",
    Code.AUTODETECTED_TEMPLATE: "using autodetected template {template}",
    Code.WAITING_FOR_MACHINE: "waiting for {holder}, which makes the same: {step}",
    Code.TAKING_OVER: "{holder} has stopped: {step}",
    Code.TOOK_SHARED: "took {size} from the shared cache: {step}",
    Code.MAKING_SOONER: "made here in about {making}, {by}; from the shared cache it would take"
    " {fetching}: {step}",
    Code.SENDING_SHARED: "sending {size} to the shared cache",
    Code.SENT_SHARED: "sent {size} to the shared cache",
}
"""A sentence for each code; those that Ollama has, too, are in its words."""

_ONCE = " (once on this machine)"


def status_text(event: Status) -> str:
    """What the build is doing."""
    from mbuild.build.reasons import in_words

    values = in_words(event.values)
    if isinstance(size := event.values.get("size"), int):
        values["size"] = human_size(size)
    once = _ONCE if event.values.get("kept") else ""
    return STATUSES[event.code].format(once=once, **values)


def line_of(event: BuildEvent) -> str | None:
    """The line that Ollama prints for an event, if it has one."""
    match event:
        case Status():
            return printable(status_text(event))
        case Warned(text=text):
            return f"warning: {printable(text)}"
        case LayerReady(digest, existing=existing):
            return f"{'using existing' if existing else 'creating new'} layer {digest}"
        case WritingManifest():
            return "writing manifest"
        case Replaced(name, id):
            return f"replaced {name} (was {id.short})"
        case Explained(steps):
            return "\n".join(f"ran {printable(line)}" for line in why_lines(steps))
        case BuildFinished():
            return "success"
        case PartFinished():
            return part_text(event)
    return None


def why_lines(steps: Sequence[Reason]) -> list[str]:
    """One line for the steps that ran for one reason: ``STEP, STEP: why``."""
    labels: dict[tuple[str, ...], list[str]] = {}
    for reason in steps:
        labels.setdefault(reason.texts, []).append(reason.label)
    return [f"{', '.join(names)}: {'; '.join(texts)}" for texts, names in labels.items()]


def part_text(event: PartFinished) -> str:
    """What a part made, and what it found made."""
    return (
        f"part {event.number} of {event.parts} in {event.seconds:.1f} s: {event.made} pieces made"
        f" ({human_size(event.size)}), {event.there} there before, {human_size(event.sent)} sent"
    )


def model_text(event: ModelBuilt) -> str:
    """A model's name, id and size."""
    return f"{event.name or '(no name)'}  {event.id.short}  {human_size(event.size)}"


def effort(event: StepFinished) -> list[str]:
    """How long a step took and what it wrote, as far as there is something to tell."""
    seconds = human_duration(event.seconds) if event.seconds >= 0.05 else ""
    written = f"{human_size(event.written)} written" if event.written else ""
    return [text for text in (seconds, written) if text]


def summary(event: BuildFinished) -> str:
    """The last line: what was built, how long it took, what was cached."""
    seconds = event.seconds
    name = event.name or "the model, without a name,"
    return (
        f"built {name} in {f'{seconds:.1f} s' if seconds < 60 else human_duration(seconds)}:"
        f" {event.ran}"
        f" {'step' if event.ran == 1 else 'steps'} run, {event.cached} cached,"
        f" {human_size(event.written)} written"
    )


_WAITED = {
    "cores": ("the cores", "more cores would help most"),
    "hash": (
        "the SHA-256 of what was written",
        "one core digests one file, so that only --split would help",
    ),
    "disk": ("the disk", "a faster disk would help most"),
}
"""What a build waits for, and what would make it faster where that is the most."""


def waited_for(limits: Mapping[str, float]) -> str:
    """What ``--verbose`` adds: the seconds for which each resource was the limit."""
    if not any(limits.values()):
        return "waited for nothing: no weights were written"
    most = sorted(limits, key=lambda what: -limits[what])
    parts = [f"{limits[what]:.1f} s for {_WAITED[what][0]}" for what in most]
    return f"waited {parts[0]}, {', '.join(parts[1:])}; {_WAITED[most[0]][1]}"
