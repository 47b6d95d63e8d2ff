"""Modelfiles that nobody wrote: mutations of the recorded ones, and what must hold for each."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from asked import asked
from conformance import cases
from inprocess import in_process
from modelfile_model import Refused, read
from stores import copy_tiny_store

from mbuild.build.build import build
from mbuild.build.prepare import read_recipe
from mbuild.build.sources.resolve import LocalContext
from mbuild.core.digest import Digest
from mbuild.core.errors import MbuildError, ModelfileError
from mbuild.core.names import ModelName
from mbuild.language.formatter import format
from mbuild.language.instructions import Modelfile
from mbuild.language.parser import decode, parse
from mbuild.lint import check
from mbuild.models.library import by_path, modelfile_of, view
from mbuild.store import Layer, Store

SOURCES = [case.modelfile for case in cases() if case.ok or case.id.endswith("3")]
PIECES = (
    *(b'"""', b'"', b"\r", b"\r\n", b"\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80"),
    *(b"FROM tiny\n", b"PARAMETER ", b" stop ", b"TEMPLATE ", b"SYSTEM ", b"LICENSE ", b"#"),
    *(b"MESSAGE user ", b"REQUIRES 0.14.0\n", b"ADAPTER ", b"DRAFT ", b"RENDERER x\n", b"\t"),
    *(b"{{ .System }}", b"{{", b"}}", b"{{if .X}}", b"{{end}}", b"\\", b" ", b"temperature"),
    *(b"\xe2\x80\x8d", b"\xc2\xa0", b"\xf0\x9f\x91\x8b", b"1e999", b"-", b"true", b"nan", b"0x10"),
)
ROUNDS, EACH = 8, 120


def mutated(chance: random.Random) -> bytes:
    """A recorded Modelfile with one to three changes."""
    data = chance.choice(SOURCES)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        data = _change(data, chance)
    if chance.random() < 0.08:
        return _as_utf_16(data, chance)
    return data


def _change(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    other = chance.choice(SOURCES)
    start = chance.randrange(len(other) + 1)
    lines = data.split(b"\n")
    chance.shuffle(lines)
    choices = (
        data[:at] + chance.choice(PIECES) + data[at:],
        data[:at] + data[at + chance.randint(1, 6) :],
        data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :],
        data[:at] + other[start : start + chance.randint(1, 40)] + data[at:],
        b"\n".join(lines),
        data + chance.choice((b"", b"\n")) + other,
        data.replace(b"\n", chance.choice((b"\r\n", b"\r", b"\n\n"))),
        data[:at],
    )
    return chance.choice(choices)


def _as_utf_16(data: bytes, chance: random.Random) -> bytes:
    """In UTF-16 of either order, perhaps with half a unit or half a pair at its end."""
    text = data.decode("utf-8", "replace")
    mark, encoding = chance.choice(((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")))
    return mark + text.encode(encoding) + chance.choice((b"", b"\0", b"\0\xd8", b"\xd8\0"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all."""
    return Store(copy_tiny_store(tmp_path_factory.mktemp("mutated") / "store"))


def built(data: bytes, name: str, store: Store) -> bytes:
    """Build; the manifest's bytes."""
    recipe, _ = read_recipe(data, "Modelfile", store)
    context, parsed = LocalContext(Path(store.root), store), ModelName.parse(name)
    for _ in build(asked(recipe, context, parsed), store):
        pass
    return store.manifests.read_bytes(parsed) or b""


def layers(name: str, store: Store) -> list[Layer]:
    """A model's config and layers, without where they were inherited from."""
    manifest = store.manifests.read(ModelName.parse(name)).manifest
    return [layer._replace(origin="") for layer in manifest.blobs()]


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_what_holds_for_every_modelfile(seed: int, store: Store) -> None:
    """No traceback; a place for every error; fmt and show --modelfile build the same again."""
    chance = random.Random(seed)
    accepted = 0
    for _ in range(EACH):
        data = mutated(chance)
        try:
            modelfile, _ = check(data, "Modelfile")
        except ModelfileError as error:
            _check_places(error, decode(data))
            continue
        _check_reading(data, modelfile)
        accepted += _check_building(data, format(modelfile).encode(), store)
    assert accepted > EACH / 6


def _check_places(error: ModelfileError, text: str) -> None:
    for problem in error.problems:
        assert problem.render()
        if problem.code != "missing-from":
            assert problem.span is not None, problem
            line, column = problem.span.line, problem.span.column
            assert line >= 1, text
            assert column >= 1, text
            assert 0 <= problem.span.start <= problem.span.end <= len(text) + 1, text


def _check_reading(data: bytes, modelfile: Modelfile) -> None:
    """The rule of the language, told another way, takes it too; fmt keeps what it says."""
    try:
        read(decode(data))
    except Refused:
        pytest.fail(f"accepted against the rule: {data!r}")
    text = format(modelfile)
    again = parse(text.encode())
    assert (again, again.comments) == (modelfile, modelfile.comments), data
    assert format(again) == text, data


def _check_building(data: bytes, formatted: bytes, store: Store) -> bool:
    try:
        first = built(data, "first", store)
    except MbuildError:  # a file that is not there, a template that is none
        return False
    assert built(formatted, "second", store) == first, data
    printed = modelfile_of(view(store, ModelName.parse("first")), by_path(store))
    built(printed.encode(), "third", store)
    assert layers("third", store) == layers("first", store), data
    assert Digest.of(first) == store.manifests.read(ModelName.parse("first")).id
    return True


HOSTILE: dict[str, bytes] = {
    "a line of a megabyte": b"FROM tiny\nSYSTEM " + b"x" * (1 << 20),
    "a word of a megabyte": b"FROM tiny\n" + b"X" * (1 << 20) + b" y\n",
    "a parameter of a megabyte": b"FROM tiny\nPARAMETER " + b"x" * (1 << 20) + b" 1\n",
    "a number of a megabyte": b"FROM tiny\nPARAMETER temperature " + b"1" * (1 << 20) + b"\n",
    "quotes without end": b"FROM tiny\n" + b'SYSTEM """x\n' * 5000,
    "only quotes": b"FROM tiny\nSYSTEM " + b'"' * 100_000 + b"\n",
    "deep nesting": b'FROM tiny\nTEMPLATE """' + b"{{if .A}}" * 5000 + b"{{end}}" * 5000 + b'"""',
    "unclosed nesting": b'FROM tiny\nTEMPLATE """' + b"{{if .A}}" * 5000 + b'"""',
    "deep parentheses": b"FROM tiny\nTEMPLATE {{ " + b"(" * 50_000 + b" }}",
    "NUL bytes": b"FROM tiny\0\nSYSTEM a\0b\0" + b"\0" * 1000,
    "every byte": bytes(range(256)) * 400,
    "half a pair": b"\xff\xfe" + "FROM tiny\nSYSTEM ".encode("utf-16-le") + b"\0\xd8\n\0",
    "an odd number of bytes": b"\xfe\xff" + "FROM tiny".encode("utf-16-be") + b"\0",
    "no final newline": b"FROM tiny\nSYSTEM hi",
    "only a mark": b"\xef\xbb\xbf",
    "nothing": b"",
    "carriage returns": b"FROM tiny\r" * 3000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_well(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """check and fmt say yes or no, in a few lines; what fmt prints is in canonical form."""
    mbuild = in_process(tmp_path, monkeypatch)
    (tmp_path / "Modelfile").write_bytes(HOSTILE[name])
    checked, formatted = mbuild("check"), mbuild("fmt")
    assert checked.returncode in (0, 1)
    assert len(checked.stdout) < 20_000
    if checked.returncode == 0:
        assert formatted.returncode == 0, formatted.stderr
        (tmp_path / "Modelfile").write_bytes(formatted.stdout.encode())
        assert mbuild("fmt", "--check").returncode == 0
    else:
        assert "error: " in checked.stdout
