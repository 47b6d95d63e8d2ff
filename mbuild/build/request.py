"""All that a build is asked, as a value: it is written down as JSON and asked again from that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mbuild.build.converter import ConvertOptions, ForeignConverter
from mbuild.build.splitting import BOTH, Halves, Splitting
from mbuild.convert.conversion import AS_IT_IS, Conversion
from mbuild.core.digest import Digest
from mbuild.core.errors import FormatError, MbuildError
from mbuild.core.names import ModelName
from mbuild.core.values import NamedTuple
from mbuild.quant.choose.options import Quantization, spelled

if TYPE_CHECKING:
    from collections.abc import Callable

    from mbuild.quant.choose.types import FileType

FORMAT = 1
"""Counts up when requests of another shape are written."""

OUTTYPE = "auto"
"""The type of a converted checkpoint's matrices when nobody names one."""

OUTTYPES = (OUTTYPE, "f32", "f16", "bf16", "q8_0", "tq1_0", "tq2_0")
"""The types that they can have."""

T = TypeVar("T")


class Script(NamedTuple):
    """The Modelfile that asks, on the disk of whoever builds.

    ``text`` is the digest of its bytes, which the cache keeps; ``folder`` is where its
    paths start, ``directory`` where those of the options start (an importance matrix).
    ``arguments`` are those of ``--build-arg``; ``brought`` has the files that the Modelfile
    includes or takes values from, by the names that it gives them, which the cache keeps too.
    """

    name: str
    text: Digest
    folder: str
    directory: str = ""
    arguments: Mapping[str, str] = {}
    brought: Mapping[str, Digest] = {}


class Posted(NamedTuple):
    """The request to the API that asks: no path of a disk is in it.

    ``recipe`` is the digest of the recipe's JSON, which the cache keeps. The files are
    uploaded blobs by the names that the client gave them; ``folder`` is the name of the
    directory that the files of a checkpoint make.
    """

    recipe: Digest
    folder: str
    files: Mapping[str, Digest] = {}
    adapters: Mapping[str, Digest] = {}
    drafts: Mapping[str, Digest] = {}
    imatrices: Mapping[str, Digest] = {}

    @property
    def blobs(self) -> Mapping[Digest, str]:
        """Every blob that it names, with the client's name for it."""
        parts = (self.files, self.adapters, self.drafts, self.imatrices)
        return {digest: name for part in parts for name, digest in part.items()}


class Target(NamedTuple):
    """One model to be: the names that it gets, and how it is quantized, if it is.

    ``stage`` is the stage of the Modelfile that it is, empty for a Modelfile without.
    ``outtype`` and ``splitting`` are what the stage says of them, and count before those of
    the request. Where ``beside`` is True the importance matrix is named by the Modelfile, and
    lies beside it.
    """

    names: tuple[ModelName, ...]
    quantization: Quantization | None = None
    stage: str = ""
    outtype: str | None = None
    splitting: Splitting | None = None
    beside: bool = False

    @property
    def variant(self) -> str:
        """Which of a build's variants it is: the file type, empty where it is not quantized.

        The stage stands before it, with a slash.
        """
        type_ = self.quantization.file_type.name if self.quantization else ""
        return "/".join(part for part in (self.stage, type_) if part)

    @property
    def label(self) -> str:
        """What tells it from other targets in the label of a step."""
        type_ = self.quantization.file_type.name if self.quantization else ""
        return " ".join(part for part in (self.stage, type_) if part)

    def flags(self) -> Iterator[tuple[str, str]]:
        """The options that quantize it, with their values, as a command line has them."""
        if self.quantization is None:
            return
        yield "--quantize", spelled(self.quantization.file_type.name)
        yield from self.quantization.flags()

    def to_json(self) -> dict[str, Any]:
        """For :meth:`from_json`."""
        value = {
            "names": [str(name) for name in self.names],
            "quantize": self.quantization.to_json() if self.quantization else None,
            "stage": self.stage or None,
            "outtype": self.outtype,
            "splitting": self.splitting.to_json() if self.splitting else None,
            "beside": self.beside or None,
        }
        return _said(value)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Target:
        """Read :meth:`to_json`'s value."""
        fields = _Fields(value, "a target")
        names = tuple(ModelName.parse(_text(name)) for name in _list(fields.pop("names", [])))
        quantize = fields.pop("quantize", None)
        stage, outtype = _text(fields.pop("stage", "")), fields.pop("outtype", None)
        splitting = Splitting.parse(fields.pop("splitting", {}))
        beside = fields.pop("beside", False) is True
        fields.end()
        quantization = None if quantize is None else Quantization.from_json(quantize)
        outtype = None if outtype is None else _text(outtype)
        return cls(names, quantization, stage, outtype, splitting, beside)


class BuildRequest(NamedTuple):
    """What is asked: by which text, for which models, with which options.

    ``source`` is None for a program that has its recipe from elsewhere; such a build
    cannot be asked again. ``outtype`` and ``pre`` are those of llama.cpp's converter: the
    type of a converted checkpoint's matrices, and its pre-tokenizer's name.
    ``draft_quantize`` is the type of the drafts, the same for all targets; ``link`` asks for
    hard links instead of copies. Where ``named`` is False the models get no names: those of
    the targets are only what to call them. ``splitting`` says in which files the weights of
    every target are kept, ``conversion`` how a checkpoint is converted beside its types,
    ``converter`` by whose converter, where it is not mbuild's; of that only the digest is written.
    ``halves`` says which parts of a multimodal checkpoint are built. ``checks`` are what has
    to hold of every target, in the words of CHECK.
    """

    targets: tuple[Target, ...]
    source: Script | Posted | None = None
    outtype: str = OUTTYPE
    pre: str | None = None
    draft_quantize: FileType | None = None
    link: bool = False
    named: bool = True
    splitting: Splitting | None = None
    conversion: Conversion = AS_IT_IS
    converter: ForeignConverter | None = None
    halves: Halves = BOTH
    checks: tuple[str, ...] = ()

    @property
    def convert_options(self) -> ConvertOptions:
        """What decides how a checkpoint is converted."""
        return ConvertOptions(self.outtype, self.pre, self.conversion, self.converter)

    @property
    def script(self) -> Script | None:
        """The Modelfile, if it is one that asks."""
        return self.source if isinstance(self.source, Script) else None

    @property
    def names(self) -> tuple[ModelName, ...]:
        """Every name that the build gives, target by target."""
        return tuple(name for target in self.targets for name in target.names)

    @property
    def variants(self) -> tuple[str, ...]:
        """The targets' file types, in order."""
        return tuple(target.variant for target in self.targets)

    def names_by_place(self, places: Sequence[int]) -> dict[int, tuple[str, ...]]:
        """The names that the steps at some places give: there is one place for each target.

        Targets that come out of one step share its place. A build that failed early has none.
        """
        found: dict[int, tuple[str, ...]] = {}
        for place, target in zip(places, self.targets, strict=False):
            found[place] = (*found.get(place, ()), *map(str, target.names))
        return found

    def flags(self, target: Target | None = None) -> list[tuple[str, str]]:
        """The options that say something, as a command line has them, each flag with its value.

        An option without a value has an empty text. With ``target`` those that decide its
        weights, else all.
        """
        wanted = self.targets if target is None else (target,)
        found = dict.fromkeys(flag for each in wanted for flag in each.flags())
        own = target.outtype if target and target.outtype else self.outtype
        if own != OUTTYPE:
            found["--outtype", own] = None
        if self.pre is not None:
            found["--pre", self.pre] = None
        found |= dict.fromkeys(self.conversion.flags())
        if self.converter is not None:
            found["--converter", self.converter.path or self.converter.digest] = None
        splitting = target.splitting if target and target.splitting else self.splitting
        if splitting is not None:
            found |= dict.fromkeys(splitting.flags())
        found |= dict.fromkeys(self.halves.flags())
        if target is None:
            if self.draft_quantize is not None:
                found["--draft-quantize", spelled(self.draft_quantize.name)] = None
            if self.link:
                found["--link", ""] = None
            found |= dict.fromkeys(("--check", text) for text in self.checks)
        return list(found)

    def for_stage(self, target: Target) -> BuildRequest:
        """The request for one target alone, with what its stage says of the options."""
        return self._replace(
            targets=(target,),
            outtype=target.outtype or self.outtype,
            splitting=target.splitting or self.splitting,
        )

    def to_json(self) -> dict[str, Any]:
        """The request as JSON, for :meth:`from_json`; what says nothing is left out."""
        value = {
            "request": FORMAT,
            **_source_to_json(self.source),
            "targets": [target.to_json() for target in self.targets],
            "outtype": None if self.outtype == OUTTYPE else self.outtype,
            "pre": self.pre,
            "draft_quantize": self.draft_quantize.name if self.draft_quantize else None,
            "link": self.link or None,
            "named": None if self.named else False,
            "splitting": self.splitting.to_json() if self.splitting else None,
            "conversion": self.conversion.to_json() or None,
            "converter": self.converter.to_json() if self.converter else None,
            "halves": self.halves.to_json() or None,
            "checks": list(self.checks) or None,
        }
        return _said(value)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BuildRequest:
        """Read :meth:`to_json`'s value.

        Raises :class:`FormatError` for anything else, for a field that nobody knows (it
        would change what is asked) and for a request of a later format.
        """
        try:
            return cls._from_json(value)
        except FormatError:
            raise
        except (MbuildError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise FormatError(f"not a build request: {reason}") from None

    @classmethod
    def _from_json(cls, value: Mapping[str, Any]) -> BuildRequest:
        fields = _Fields(value, "a build request")
        number = fields.pop("request")
        if isinstance(number, int) and number > FORMAT:
            raise FormatError(
                f"a build request of format {number}; this mbuild reads format {FORMAT}",
                hint="use a newer mbuild",
            )
        if number != FORMAT:
            raise ValueError(f"its format is {number!r}")
        source = _source_from_json(fields.pop("modelfile", None), fields.pop("posted", None))
        targets = tuple(Target.from_json(target) for target in _list(fields.pop("targets")))
        outtype, pre = fields.pop("outtype", OUTTYPE), fields.pop("pre", None)
        draft = fields.pop("draft_quantize", None)
        link, named = fields.pop("link", False), fields.pop("named", True)
        splitting = Splitting.parse(fields.pop("splitting", {}))
        conversion = Conversion.parse(fields.pop("conversion", {}))
        halves = Halves.parse(fields.pop("halves", {}))
        if not (isinstance(link, bool) and isinstance(named, bool)):
            raise TypeError("'link' and 'named' are true or false")
        pre = None if pre is None else _text(pre)
        draft_type = _file_type(draft)
        digest = fields.pop("converter", None)
        converter = None if digest is None else ForeignConverter.from_json(_text(digest))
        checks = tuple(_text(text) for text in _list(fields.pop("checks", [])))
        fields.end()
        further = (draft_type, link, named, splitting, conversion, converter, halves, checks)
        return cls(targets, source, _text(outtype), pre, *further)


def _said(value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not null."""
    return {key: item for key, item in value.items() if item is not None}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.64} is not a text")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.64} is not a list")
    return value


def _file_type(text: Any) -> FileType | None:
    if text is None:
        return None
    from mbuild.quant.choose.types import file_type

    return file_type(_text(text))


class _Fields:
    """The fields of a JSON object, each to be asked for once; what is left is an error."""

    def __init__(self, value: Any, what: str) -> None:
        if not isinstance(value, Mapping):
            raise TypeError(f"{what} is a JSON object, not {value!r:.64}")
        self._rest = dict(value)
        self._what = what

    def pop(self, *arguments: Any) -> Any:
        """As a dict's."""
        return self._rest.pop(*arguments)

    def each(self, name: str, parse: Callable[[Any], T]) -> dict[str, T]:
        """A field that is an object, each of its values parsed; empty where it is missing."""
        return {_text(key): parse(item) for key, item in self.pop(name, {}).items()}

    def end(self) -> None:
        """Raise :class:`FormatError` for the first field that nobody asked for."""
        for name in self._rest:
            raise FormatError(
                f"{self._what} has no field {name!r:.64}",
                hint="a newer mbuild may have written it; leaving the field out would ask for"
                " something else",
            )


_FILES = ("files", "adapters", "drafts", "imatrices")


def _source_to_json(source: Script | Posted | None) -> dict[str, Any]:
    if source is None:
        return {}
    if isinstance(source, Script):
        brought = {name: str(digest) for name, digest in source.brought.items()}
        said = {**source._asdict(), "text": str(source.text), "brought": brought}
        return {"modelfile": {key: text for key, text in said.items() if text}}
    value: dict[str, Any] = {"recipe": str(source.recipe), "folder": source.folder}
    for name in _FILES:
        digests = {file: str(digest) for file, digest in getattr(source, name).items()}
        value |= {name: digests} if digests else {}
    return {"posted": value}


def _source_from_json(modelfile: Any, posted: Any) -> Script | Posted | None:
    if modelfile is not None and posted is not None:
        raise ValueError("it has both 'modelfile' and 'posted'")
    if modelfile is not None:
        fields = _Fields(modelfile, "a request's Modelfile")
        name, text = _text(fields.pop("name", "")), Digest.parse(fields.pop("text"))
        folder, directory = (_text(fields.pop(each, "")) for each in ("folder", "directory"))
        arguments, brought = fields.each("arguments", _text), fields.each("brought", Digest.parse)
        fields.end()
        return Script(name, text, folder, directory, arguments, brought)
    if posted is not None:
        fields = _Fields(posted, "a posted request")
        recipe, folder = Digest.parse(fields.pop("recipe")), _text(fields.pop("folder"))
        files = [fields.each(name, Digest.parse) for name in _FILES]
        fields.end()
        return Posted(recipe, folder, *files)
    return None
