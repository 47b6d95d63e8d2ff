"""What a Modelfile and the options beside it ask for together, and the build that this is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.build.fetching import Fetching, PullMode
from mbuild.build.prepare import Build, Notice, read_checks
from mbuild.build.request import BuildRequest, Script, Target
from mbuild.core.digest import Digest
from mbuild.core.errors import UsageError
from mbuild.core.names import DEFAULT_TAG, ModelName
from mbuild.core.units import parse_size
from mbuild.core.values import NamedTuple
from mbuild.quant.choose.options import OPTIONS, Option, Quantization

if TYPE_CHECKING:
    from mbuild.build.sources.resolve import LocalContext
    from mbuild.language.recipe import Recipe
    from mbuild.language.stages.values import StageRecipe
    from mbuild.store import Store


class Asked(NamedTuple):
    """A Modelfile that was read, with the targets that its options name.

    ``recipe`` is that of the first target. ``overruled`` tells which options count in place of the
    Modelfile's.
    """

    targets: tuple[Target, ...]
    script: Script
    recipe: Recipe
    warnings: tuple[Notice, ...]
    stages: Mapping[str, StageRecipe] = {}
    overruled: tuple[Notice, ...] = ()

    def build(
        self,
        request: BuildRequest,
        given: Mapping[str, Any],
        context: LocalContext,
        store: Store,
        *,
        use_cache: bool,
    ) -> Build:
        """The build of a request made of this; ``given`` are the values of the options by name.

        Raises :class:`UsageError` for a check that is none.
        """
        mode = PullMode(given["pull"]) if given["pull"] else None
        return Build(
            request,
            self.recipe,
            context,
            use_cache=use_cache,
            warnings=self.warnings,
            fetching=Fetching(mode, keep=not given.get("no_keep_source")),
            stages=self.stages,
            overruled=self.overruled,
            checks=read_checks(given["check"], store),
        )


def script_of(name: str, data: bytes, folder: Path) -> Script:
    """What the log keeps of a Modelfile; its paths start at ``folder``, the asker's own here."""
    directory = ""
    with suppress(OSError):  # it was removed
        directory = str(Path.cwd())
    return Script(name, Digest.of(data), str(folder.absolute()), directory)


NameOf = Callable[[str], ModelName]
"""The name in the store that a text means; raises :class:`InvalidNameError`."""


def targets(
    names: Sequence[str], default: Callable[[], str], given: Mapping[str, Any], name_of: NameOf
) -> tuple[Target, ...]:
    """The models that somebody asks for: names, types (``quantize``) and options by their names.

    ``default`` is asked for a name where none is given. Raises :class:`UsageError` for
    unknown types, for options without ``-q``, and for names that cannot be.
    """
    options = {row.name: given[row.name] for row in OPTIONS.values()}
    types = distinct(types_asked(given))
    if any("{target}" in name for name in names):
        raise UsageError(
            "{target} in a name stands for a stage, but this Modelfile has none",
            hint="make # syntax=mbuild/1 its first line, and name stages: FROM ... AS NAME",
        )
    if not types:
        said = [row.flag for row in OPTIONS.values() if says(row, options[row.name])]
        if said:
            raise UsageError(
                f"{said[0]} has no effect without --quantize",
                hint=f"add --quantize TYPE, or leave {said[0]} out",
            )
    wanted = names or (default(),)
    named = variant_names(wanted, types, name_of)
    if not types:
        return (Target(named[0]),)
    quantizations = (Quantization.parse(type_, options) for type_ in types)
    return tuple(Target(*pair) for pair in zip(named, quantizations, strict=True))


def types_asked(given: Mapping[str, Any]) -> tuple[str, ...]:
    """The types that ``quantize`` names, and those that ``size`` and ``bpw`` stand for."""
    bits = map(_bits_asked, given["bpw"])
    return (*given["quantize"], *map(_size_asked, given["size"]), *bits)


def _bits_asked(text: str) -> str:
    """Bits of each weight with their unit; raises :class:`UsageError` for what is no number."""
    parts = text.strip().split(".")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise UsageError(f"--bpw: {text[:40]!r} is not a number of bits such as 4.6")
    return f"{text.strip()}bpw"


def _size_asked(text: str) -> str:
    """A size with its unit; raises :class:`UsageError` for what is none."""
    try:
        size = parse_size(text)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None
    return text if text.strip()[-1:].isalpha() else f"{size}B"


def says(option: Option, value: Any) -> bool:
    """Whether a value is not that of an option which was not given."""
    return bool(value) and value != option.default


def distinct(quantize: Sequence[str]) -> tuple[str, ...]:
    """The types that -q names, each once in its first spelling: ``Q8_0`` is ``q8_0``.

    Raises :class:`UsageError` for unknown ones.
    """
    if not quantize:
        return ()
    from mbuild.quant.choose.types import file_type

    first: dict[str, str] = {}
    for text in quantize:
        first.setdefault(file_type(text).name, text)
    return tuple(first.values())


def variant_names(
    names: Sequence[str], quantize: Sequence[str], name_of: NameOf
) -> tuple[tuple[ModelName, ...], ...]:
    """The names of each variant: ``{quant}`` filled in, or the type as the tag.

    One variant keeps its name; a tag that several would share gets the type
    appended: ``mario:v2`` becomes ``mario:v2-q4_K_M``.
    """
    if not quantize and any("{quant}" in name for name in names):
        raise UsageError(
            "{quant} in a name stands for a type, but there is no --quantize",
            hint="add --quantize TYPE, or give a name without {quant}",
        )
    return tuple(
        tuple(variant_name(name, quant, len(quantize), name_of) for name in names)
        for quant in quantize or ("",)
    )


def variant_name(name: str, quant: str, count: int, name_of: NameOf) -> ModelName:
    """The name of one of ``count`` variants."""
    if "{quant}" in name:
        return name_of(name.replace("{quant}", quant))
    parsed = name_of(name)
    if count < 2:
        return parsed
    tag = quant if parsed.tag == DEFAULT_TAG else f"{parsed.tag}-{quant}"
    return parsed._replace(tag=tag)
