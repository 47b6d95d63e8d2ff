"""How a model was built: the build that makes it again, from the log or from a lock."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from gguf_files import gguf_bytes, tiny_gguf, tiny_model

from mbuild.build.again import from_log, from_modelfile
from mbuild.build.build import build
from mbuild.build.history import History
from mbuild.build.lock import BuildLock
from mbuild.build.locked import Locked, Writing
from mbuild.build.prepare import Build, keep_recipe, read_recipe
from mbuild.build.rebuild import Unchanged
from mbuild.build.request import BuildRequest, Posted, Script, Target
from mbuild.build.sources.posted import BlobContext
from mbuild.build.sources.resolve import LocalContext
from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError, NameNotFoundError, UsageError
from mbuild.core.names import ModelName
from mbuild.gguf.model import Tensor
from mbuild.language.recipe import Recipe, Reference
from mbuild.lint import check
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.types import file_type
from mbuild.store import Store, StoredManifest

TEXT = b"FROM ./model.gguf\nSYSTEM hi\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store, beside a GGUF file."""
    tiny_gguf(tmp_path / "model.gguf")
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def names(*texts: str) -> tuple[ModelName, ...]:
    return tuple(map(ModelName.parse, texts))


def script(folder: Path) -> Script:
    return Script("Modelfile", Digest.of(TEXT), str(folder), str(folder))


def built(store: Store, *targets: Target, text: bytes = TEXT) -> StoredManifest:
    """Build from the Modelfile; the first target's model."""
    folder = store.root.parent
    recipe, _ = read_recipe(text, "Modelfile", store)
    asked = script(folder)._replace(text=Digest.of(text))
    list(build(Build(BuildRequest(targets, asked), recipe, LocalContext(folder, store)), store))
    return store.manifests.read(targets[0].names[0])


def again(store: Store, stored: StoredManifest) -> Build:
    return from_log(stored, store, lambda name, size: None)


# From the log.


def test_a_build_is_asked_again_for_one_model(store: Store, tmp_path: Path) -> None:
    """Of several targets and names the one that is meant, from the kept text of the Modelfile."""
    stored = built(store, Target(names("a", "b")), Target(names("c")))
    wanted = again(store, stored)
    assert wanted.request.targets == (Target(names("a")),)
    assert wanted.request.script == script(tmp_path)
    assert wanted.recipe == Recipe.of(check(TEXT, "Modelfile")[0])
    assert isinstance(wanted.gate, Unchanged)
    assert isinstance(wanted.context, LocalContext)


def test_a_copy_was_built_under_its_other_name(store: Store) -> None:
    """The model's id counts."""
    stored = built(store, Target(names("a")))
    data = store.manifests.read_bytes(stored.name)
    assert data is not None
    (copy,) = names("copy")
    store.replace(copy, data)
    wanted = again(store, store.manifests.read(copy))
    assert wanted.request.targets == (Target((copy,)),)


def test_a_model_that_nobody_built_here_is_not_known(tiny_store: Store) -> None:
    """It was pulled; the remedy is its Modelfile."""
    with pytest.raises(
        NameNotFoundError, match="the history of this store has no build of tiny:latest"
    ) as told:
        again(tiny_store, tiny_store.manifests.read(*names("tiny")))
    assert told.value.hint == "name its Modelfile with -f FILE"


def test_a_model_that_was_replaced_by_others_is_another(store: Store) -> None:
    """Both ids are told: of the one that is there, and of the one that was built."""
    stored = built(store, Target(names("a")))
    other = built(store, Target(names("other")), text=TEXT + b"SYSTEM ho\n")
    data = store.manifests.read_bytes(other.name)
    assert data is not None
    History(store).path.write_text(History(store).path.read_text().splitlines()[0] + "\n")
    store.replace(stored.name, data)
    expected = f"a:latest is not what was built under that name: {other.id.short} .* "
    with pytest.raises(UsageError, match=f"{expected}{stored.id.short} built last"):
        again(store, store.manifests.read(stored.name))


def test_a_lost_modelfile_has_to_be_named(store: Store) -> None:
    """The cache kept its text; without the cache the log is not enough."""
    stored = built(store, Target(names("a")))
    store.database.close()
    for path in store.private.glob("cache.db*"):
        os.unlink(path)
    with pytest.raises(UsageError, match="does not have the Modelfile") as caught:
        again(Store(store.root), stored)
    assert caught.value.hint == "name it with -f FILE"


# From a request to the API.


def posted(store: Store) -> tuple[StoredManifest, Digest]:
    """A model that was built from an uploaded blob, and that blob."""
    digest = store.blobs.put(gguf_bytes(tiny_model())).digest
    recipe = Recipe((Reference("m.gguf"),), system="hi")
    source = Posted(keep_recipe(recipe, store), "mine", {"m.gguf": digest})
    request = BuildRequest((Target(names("a")),), source)
    list(build(Build(request, recipe, BlobContext(store, source)), store))
    return store.manifests.read(*names("a")), digest


def test_a_posted_build_is_asked_again_too(store: Store) -> None:
    """Its recipe is kept, and its files are blobs."""
    stored, _ = posted(store)
    wanted = again(store, stored)
    assert (wanted.recipe.models, wanted.recipe.system) == ((Reference("m.gguf"),), "hi")
    assert isinstance(wanted.context, BlobContext)


def test_a_posted_blob_that_is_gone_is_named(store: Store) -> None:
    """With the request that brings it back."""
    stored, digest = posted(store)
    for folder in (store.root / "blobs", store.kept.folder):
        (folder / digest.filename).unlink(missing_ok=True)
    with pytest.raises(DamagedError, match=rf"no longer has m\.gguf \({digest}\)$") as caught:
        again(store, stored)
    assert caught.value.hint.startswith("upload what is missing again: POST /api/blobs/")


# From a Modelfile and a lock.


def test_a_modelfile_alone_is_enough(store: Store, tmp_path: Path) -> None:
    """The build has no options, and nothing holds it to anything."""
    stored = built(store, Target(names("a")))
    wanted = from_modelfile(TEXT, script(tmp_path), None, stored, store, lambda name, size: None)
    assert wanted.request == BuildRequest((Target(names("a")),), script(tmp_path))
    assert wanted.gate is None
    assert wanted.recipe.system == "hi"


LOCK = Path("Modelfile.lock")


def locked(store: Store, *variants: Target) -> BuildLock:
    """Build these variants, and the lock that says what came of it."""
    folder = store.root.parent
    plain = [Tensor(t.name, t.dims, t.type, partial(bytes, t.nbytes)) for t in tiny_model()]
    tiny_gguf(folder / "model.gguf", tensors=plain)
    recipe, _ = read_recipe(TEXT, "Modelfile", store)
    context = LocalContext(folder, store, directory=folder, hash_files=True)
    wanted = Build(BuildRequest(variants, script(folder)), recipe, context)
    gate = Writing(wanted)
    list(build(wanted._replace(gate=gate), store))
    return BuildLock(gate.inputs, gate.results)


def of_lock(store: Store, lock: BuildLock, name: str) -> Build:
    """The build of a stored model from the Modelfile and the lock beside it."""
    stored = store.manifests.read(*names(name))
    asked = script(store.root.parent)
    return from_modelfile(TEXT, asked, (lock, LOCK), stored, store, lambda name, size: None)


def test_of_a_locks_variants_the_one_that_is_the_model_is_built(store: Store) -> None:
    """With its options, and held to the lock; the name is only what it is called now."""
    quantization = Quantization(file_type("Q8_0"))
    lock = locked(store, Target(names("plain")), Target(names("small"), quantization))
    small, plain = of_lock(store, lock, "small"), of_lock(store, lock, "plain")
    assert small.request.targets == (Target(names("small"), quantization),)
    assert plain.request.targets == (Target(names("plain")),)
    assert isinstance(small.gate, Locked)
    assert isinstance(plain.gate, Locked)


def test_a_model_that_is_none_of_a_locks_variants_is_refused(store: Store) -> None:
    """They are listed: name the Modelfile that the model was built from, or build it again."""
    quantization = Quantization(file_type("Q8_0"))
    lock = locked(store, Target(names("plain")), Target(names("small"), quantization))
    built(store, Target(names("other")), text=TEXT + b"SYSTEM ho\n")
    with pytest.raises(UsageError, match=r"none of the variants in .* is other") as told:
        of_lock(store, lock, "other")
    assert all(variant in told.value.message for variant in ("unquantized", "Q8_0"))
    assert told.value.hint == "name the Modelfile that the model was built from, or build it again"


def test_the_only_variant_of_a_lock_is_meant(store: Store) -> None:
    """Also of a model that came out differently: the comparison is to say so."""
    lock = locked(store, Target(names("plain")))
    built(store, Target(names("other")), text=TEXT + b"SYSTEM ho\n")
    assert of_lock(store, lock, "other").request.targets == (Target(names("other")),)
