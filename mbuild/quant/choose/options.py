"""The options of a quantization: one table, from which all that knows them follows.

An option is one field of :class:`Quantization`, annotated with its :class:`Option`: the
command line, the HTTP API, the help, the lock, the explanations and ``import-recipe``
read :data:`OPTIONS`. Other options of a build are such tables too, so what reads and writes
a table (:func:`rows_of`, :func:`parse_given`) is no matter of quantization. A build with
nothing to do loads this module, so the types of tensors are named here and imported where
one is read.
"""

# Without "from __future__ import annotations": the annotations of the fields are the table.
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from mbuild.core.errors import UsageError
from mbuild.core.units import exact_size, parse_size

if TYPE_CHECKING:
    from mbuild.gguf.types import GGMLType
    from mbuild.quant.choose.imatrix import MatrixUse
    from mbuild.quant.choose.types import FileType


class OptionKind(NamedTuple):
    """A kind of option: how its value is written, and read.

    ``metavar`` is what help calls a value, empty where none follows the flag.
    ``parse`` makes the value of what was given: true, a text, or several texts where the
    option ``repeats``; it raises :class:`UsageError`. ``write`` is its inverse, and gives JSON.
    """

    metavar: str
    parse: Callable[[Any], Any]
    write: Callable[[Any], Any]
    repeats: bool = False


def _flag(given: Any) -> bool:
    if not isinstance(given, bool):
        raise UsageError(f"{given!r:.64} is neither true nor false")
    return given


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise UsageError(f"{given!r:.64} is not a string")
    return given


def _type(given: Any) -> "GGMLType":
    from mbuild.quant.choose.types import tensor_type

    return tensor_type(_text(given))


def _rules(given: Any) -> "tuple[tuple[str, GGMLType], ...]":
    from mbuild.quant.choose.patterns import parse_tensor_type

    if not isinstance(given, (list, tuple)):
        raise UsageError(f"{given!r:.64} is not a list of strings")
    return tuple(parse_tensor_type(_text(each)) for each in given)


def _written_rules(rules: "tuple[tuple[str, GGMLType], ...]") -> list[str]:
    return [f"{pattern}={type_.name}" for pattern, type_ in rules]


def _entries(given: Any) -> tuple[tuple[str, str, str], ...]:
    """Metadata as llama-quantize takes it, ``KEY=TYPE:VALUE``; each is checked by itself."""
    from mbuild.quant.choose.notations import parse_entry

    if not isinstance(given, (list, tuple)):
        raise UsageError(f"{given!r:.64} is not a list of strings")
    return tuple(parse_entry(_text(each)) for each in given)


def _written_entries(entries: "tuple[tuple[str, str, str], ...]") -> list[str]:
    return [f"{key}={type_}:{value}" for key, type_, value in entries]


def _size(given: Any) -> int:
    """Bytes: a number, or a text such as 40GB."""
    if isinstance(given, bool) or not isinstance(given, (int, str)):
        raise UsageError(f"{given!r:.64} is not a size", hint="write for example 40GB")
    try:
        size = parse_size(str(given))
    except ValueError as error:
        raise UsageError(str(error)) from None
    if size < 1:
        raise UsageError(f"{given!r:.64} is too small a size")
    return size


def _count(given: Any) -> int:
    text = str(given)
    if isinstance(given, bool) or not (text.isascii() and text.isdecimal() and int(text)):
        raise UsageError(f"{given!r:.64} is not a whole number of at least 1")
    return int(text)


def _layers(given: Any) -> tuple[int, ...]:
    from mbuild.quant.choose.notations import parse_layers

    return parse_layers(given)


def _names(given: Any) -> tuple[str, ...]:
    if not isinstance(given, (list, tuple)):
        raise UsageError(f"{given!r:.64} is not a list of strings")
    if "" in given:
        raise UsageError("an empty text matches every name")
    return tuple(map(_text, given))


FLAG = OptionKind("", _flag, bool)
CHOICE = OptionKind("NAME", _text, str)
FILE = OptionKind("FILE", _text, str)
TYPE = OptionKind("TYPE", _type, lambda type_: type_.name)
SIZE = OptionKind("SIZE", _size, exact_size)
COUNT = OptionKind("N", _count, int)
RULES = OptionKind("REGEX=TYPE", _rules, _written_rules, repeats=True)
ENTRIES = OptionKind("KEY=TYPE:VALUE", _entries, _written_entries, repeats=True)
LAYERS = OptionKind("N,N", _layers, lambda layers: ",".join(map(str, layers)))
NAMES = OptionKind("NAME", _names, list, repeats=True)


class Option(NamedTuple):
    """One option: what it does, for people, and what its values are.

    ``name`` is that of the flag (``--tensor-type``) and of the API's field
    (``tensor_type``), as a rule the field's own name; ``default`` is the value that it
    has when it is not given.
    """

    help: str
    kind: OptionKind = FLAG
    choices: tuple[str, ...] = ()
    name: str = ""
    default: Any = None

    @property
    def flag(self) -> str:
        """The option on a command line, which explanations name too."""
        return f"--{self.name.replace('_', '-')}"

    def parse(self, given: Any) -> Any:
        """The value that was given; raises :class:`UsageError` for what cannot be one."""
        value = self.kind.parse(given)
        if self.choices and value not in self.choices:
            raise UsageError(f"unknown {self.name} {value!r:.64}", hint=" or ".join(self.choices))
        return value

    def write(self, value: Any) -> Any:
        """A value as JSON; nothing is null."""
        return None if value is None else self.kind.write(value)


class Quantization(NamedTuple):
    """What ``--quantize`` and its companions ask for; names as llama-quantize has them.

    ``tensor_types`` are regular expressions and the type of the tensors whose name they
    are found in, the first that fits deciding, beside ``pure`` too. ``imatrix`` names the
    file as the user does: llama-quantize writes that name into the model.
    """

    file_type: "FileType"
    recipe: Annotated[
        str,
        Option(
            "Whose rules choose each tensor's type  [default: llama.cpp]",
            CHOICE,
            ("llama.cpp", "ollama"),
        ),
    ] = "llama.cpp"
    imatrix: Annotated[
        "str | None", Option("Importance matrix (GGUF or the old format).", FILE)
    ] = None
    imatrix_from: Annotated[
        "str | None",
        Option("Compute the importance matrix on this text, with the unquantized model.", FILE),
    ] = None
    imatrix_chunks: Annotated[
        "int | None",
        Option("Use only so many chunks of 512 tokens of that text  [default: all]", COUNT),
    ] = None
    pure: Annotated[
        bool, Option("Use one type for all tensors except those that --tensor-type matches.")
    ] = False
    leave_output_tensor: Annotated[bool, Option("Do not quantize output.weight.")] = False
    output_tensor_type: Annotated["GGMLType | None", Option("Type of output.weight.", TYPE)] = None
    token_embedding_type: Annotated[
        "GGMLType | None", Option("Type of token_embd.weight.", TYPE)
    ] = None
    tensor_types: Annotated[
        "tuple[tuple[str, GGMLType], ...]",
        Option(
            "Type of the tensors whose name matches; the first match counts.",
            RULES,
            name="tensor_type",
        ),
    ] = ()
    allow_requantize: Annotated[bool, Option("Requantize tensors that are already quantized.")] = (
        False
    )

    override_kv: Annotated[
        tuple[tuple[str, str, str], ...],
        Option("Set metadata of the quantized model; TYPE is int, float, bool or str.", ENTRIES),
    ] = ()
    include_weights: Annotated[
        tuple[str, ...],
        Option("Use the importance matrix only for tensors with this in their name.", NAMES),
    ] = ()
    exclude_weights: Annotated[
        tuple[str, ...],
        Option("Use the importance matrix for no tensor with this in its name.", NAMES),
    ] = ()
    prune_layers: Annotated[
        tuple[int, ...],
        Option("Leave out layers, counted from 0 (3,7-8); the others move up.", LAYERS),
    ] = ()

    @property
    def matrix_use(self) -> "MatrixUse":
        """What of the importance matrix is used."""
        from mbuild.quant.choose.imatrix import MatrixUse

        return MatrixUse(self.include_weights, self.exclude_weights, self.prune_layers)

    @property
    def importances(self) -> bool:
        """Whether an importance matrix will be used."""
        return self.imatrix is not None or self.imatrix_from is not None

    @classmethod
    def parse(cls, file_type: str, given: Mapping[str, Any]) -> "Quantization":
        """A quantization from texts: the type as users spell it, options by their names.

        An option that is null is not given. Raises :class:`UsageError` for unknown types,
        values and options.
        """
        from mbuild.quant.choose.types import file_type as parsed

        found = cls(parsed(file_type), **parse_given(OPTIONS, given, "a quantization"))
        found._check()
        return found

    def _check(self) -> None:
        """Raise :class:`UsageError` for options that contradict each other."""
        if self.imatrix is not None and self.imatrix_from is not None:
            raise UsageError(
                "--imatrix and --imatrix-from give two importance matrices", hint="leave one out"
            )
        for names, flag in (
            (self.include_weights, "--include-weights"),
            (self.exclude_weights, "--exclude-weights"),
        ):
            if names and not self.importances:
                raise UsageError(f"{flag} has no effect without --imatrix or --imatrix-from")
        if self.include_weights and self.exclude_weights:
            raise UsageError(
                "--include-weights and --exclude-weights cannot be combined",
                hint="choose one of them",
            )
        if self.imatrix_chunks is not None and self.imatrix_from is None:
            raise UsageError("--imatrix-chunks has no effect without --imatrix-from")
        if self.file_type.budget is not None and self.pure:
            raise UsageError(
                f"--pure asks for one type, and {self.file_type.name} for many",
                hint="leave --pure out, or name a type",
            )

    def options(self) -> Iterator[tuple[Option, Any]]:
        """The options that differ from their defaults, with their values."""
        return said(OPTIONS, self)

    def fields(self) -> dict[str, Any]:
        """Every field as JSON, by its own name: what decides the quantized model.

        Of a matrix that is computed neither text nor length: what comes of them decides.
        """
        every = {
            name: row.write(value)
            for name, row in OPTIONS.items()
            if name not in _COMPUTED and ((value := getattr(self, name)) or name not in _LATER)
        }
        return {"file_type": self.file_type.name, **every}

    def to_json(self) -> dict[str, Any]:
        """The type, and the options that differ from their defaults, for :meth:`from_json`."""
        return {"type": self.file_type.name, **written(self.options())}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Quantization":
        """Read :meth:`to_json`'s value; raises :class:`UsageError` for anything else."""
        given = dict(value)
        return cls.parse(_text(given.pop("type", None)), given)

    def flags(self) -> list[tuple[str, str]]:
        """The options on a command line, without ``-q``: flags and values, empty where none is."""
        return flags_of(self.options())


_COMPUTED = ("imatrix_from", "imatrix_chunks")
"""The options that say how an importance matrix is computed."""

_LATER = ("include_weights", "exclude_weights", "prune_layers")
"""Options that came later: keys say nothing of one that is not given, so older results count."""

BESIDE_TYPES = ("imatrix", *_COMPUTED, "override_kv", *_LATER)
"""The options that say nothing of a tensor's type."""


def _lowered(written: Any) -> Any:
    """Types as people write them; an expression is in lower case already."""
    return [each.lower() for each in written] if isinstance(written, list) else written.lower()


def rows_of(kind: type[Any]) -> dict[str, Option]:
    """The options that the fields of a named tuple are, by their fields."""
    found = {}
    for field, hint in kind.__annotations__.items():
        for option in getattr(hint, "__metadata__", ()):
            default = kind._field_defaults[field]
            found[field] = option._replace(name=option.name or field, default=default)
    return found


def parse_given(rows: Mapping[str, Option], given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Values by their fields, from what was given by the options' names; null is not given.

    Raises :class:`UsageError` for values that cannot be, and for options that ``what`` has not.
    """
    named = {option.name: (field, option) for field, option in rows.items()}
    unknown = [name for name in given if name not in named]
    if unknown:
        raise UsageError(f"unknown option of {what} {unknown[0]!r:.64}", hint=", ".join(named))
    found = {}
    for name, value in given.items():
        if value is None:
            continue
        field, option = named[name]
        try:
            found[field] = option.parse(value)
        except UsageError as error:
            if name in error.message:
                raise
            raise UsageError(f"{option.flag}: {error.message}", hint=error.hint) from error
    return found


def said(rows: Mapping[str, Option], value: Any) -> Iterator[tuple[Option, Any]]:
    """The options of a value that differ from their defaults, with what they are."""
    for field, option in rows.items():
        own = getattr(value, field)
        if own != option.default:
            yield option, own


def written(options: Iterable[tuple[Option, Any]]) -> dict[str, Any]:
    """Options as JSON, by their names."""
    return {option.name: option.write(value) for option, value in options}


def flags_of(options: Iterable[tuple[Option, Any]]) -> list[tuple[str, str]]:
    """Options as a command line has them: flags and values, empty where none follows."""
    found = []
    for option, value in options:
        text = option.write(value)
        if option.kind in (TYPE, RULES):
            text = _lowered(text)
        for each in text if isinstance(text, list) else [text]:
            found.append((option.flag, "" if each is True else str(each)))
    return found


OPTIONS: Mapping[str, Option] = rows_of(Quantization)
"""Every option by its field, in the order of ``--help``."""


def spelled(name: str) -> str:
    """A type as people and tags spell it: ``q4_K_M`` for ``Q4_K_M``, ``iq3_s``, ``bf16``."""
    if name.startswith("IQ"):
        return name.lower()
    if name[0].isdigit():  # how large the model may be, which is written as it is
        return name
    letters = len(name) - len(name.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    return name[:letters].lower() + name[letters:]
