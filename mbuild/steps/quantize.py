"""Quantization as a step: one pass over the source for all variants, no tensor ever twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from mbuild.digest import Digest
from mbuild.errors import FormatError
from mbuild.graph import BaseStep, Result, Step, StepContext, canonical_json
from mbuild.sources import SourceFile
from mbuild.steps.files import OpenFiles
from mbuild.steps.models import as_json, read_facts
from mbuild.steps.origins import Origin
from mbuild.store import Layer
from mbuild.store.manifest import MODEL

if TYPE_CHECKING:
    from mbuild.gguf.model import Model
    from mbuild.quant.imatrix import Imatrix
    from mbuild.quant.recipes import Options as RecipeOptions
    from mbuild.steps.tensors import Variant

QUANTIZER_VERSION = 1
"""Counts up when a recipe or a kernel gives other bytes."""

_IMATRIX = "\0imatrix"  # cannot be a file's name


class Quantization(NamedTuple):
    """What ``--quantize`` and its companions ask for; names as llama-quantize has them.

    ``file_type`` is a name of :data:`mbuild.quant.types.FILE_TYPES`;
    ``tensor_types`` are pairs of a regular expression and a type's name.
    """

    file_type: str
    recipe: str = "llama.cpp"
    pure: bool = False
    leave_output_tensor: bool = False
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()
    allow_requantize: bool = False
    imatrix: SourceFile | None = None

    def fields(self) -> dict[str, Any] | None:
        """The options as part of a key; None while the imatrix has not been read."""
        if self.imatrix is not None and self.imatrix.digest is None:
            return None
        # llama-quantize writes the imatrix's name into the file.
        imatrix = [self.imatrix.name, str(self.imatrix.digest)] if self.imatrix else None
        return {**self._asdict(), "imatrix": imatrix}

    def options(self) -> RecipeOptions:
        """As the recipes take them; raises :class:`UsageError` for an unknown type."""
        from mbuild.quant.recipes import Options
        from mbuild.quant.types import tensor_type

        def named(text: str | None) -> Any:
            return tensor_type(text) if text else None

        return Options(
            pure=self.pure,
            leave_output_tensor=self.leave_output_tensor,
            output_tensor_type=named(self.output_tensor_type),
            token_embedding_type=named(self.token_embedding_type),
            tensor_types=tuple((pattern, tensor_type(t)) for pattern, t in self.tensor_types),
            recipe=self.recipe,
            importances=self.imatrix is not None,
            allow_requantize=self.allow_requantize,
        )


@dataclass(frozen=True, eq=False)
class Quantize(BaseStep):
    """A model becomes a quantized layer, with the bytes of llama-quantize.

    Steps that share ``origin`` (the same object) run together and read it once.
    """

    origin: Origin
    quantization: Quantization

    kind: ClassVar[str] = "quantize"
    version: ClassVar[int] = QUANTIZER_VERSION
    inputs: ClassVar[tuple[Step, ...]] = ()

    @property
    def group(self) -> object:
        """The origin: its readers run together."""
        return self.origin

    @property
    def label(self) -> str:
        """What becomes what."""
        return f"quantize {self.origin.name} to {self.quantization.file_type}"

    def key_fields(self) -> Mapping[str, Any] | None:
        """The description of the unquantized model, and the recipe with its options."""
        origin, options = self.origin.fields(), self.quantization.fields()
        if origin is None or options is None:
            return None
        return {"origin": origin, "quantization": options}

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Result:
        """Quantize to this one variant."""
        return self.run_together([self], context)[0]

    @staticmethod
    def run_together(steps: Sequence[Quantize], context: StepContext) -> list[Result]:
        """Quantize one source to several variants in one pass."""
        origin = steps[0].origin
        with ExitStack() as stack:
            sources = dict(origin.files)
            for number, step in enumerate(steps):
                if step.quantization.imatrix is not None:
                    sources[f"{_IMATRIX}{number}"] = step.quantization.imatrix
            files = OpenFiles(sources, stack)
            paths = {name: path for name, path in files.paths.items() if name in origin.files}
            model = origin.open(context, paths, stack)
            made = _write_variants(steps, model, files, context)
            digests = files.digests(context)
        results = []
        for number, (step, layer, existed) in enumerate(made):
            facts = read_facts(context.store.blobs.path(layer.digest), step.origin.name)
            used = {name: digest for name, digest in digests.items() if name in origin.files}
            if step.quantization.imatrix is not None:
                used[_IMATRIX] = digests[f"{_IMATRIX}{number}"]
            known = frozenset((layer.digest,)) if existed else frozenset[Digest]()
            results.append(Result((layer,), as_json(facts, used), known))
        return results

    def learned(self, result: Result) -> Step:
        """The step with the digests that reading the files gave."""
        quantization = self.quantization
        if quantization.imatrix is not None:
            digest = Digest.parse(result.facts["files"][_IMATRIX])
            imatrix = quantization.imatrix._replace(digest=digest)
            quantization = quantization._replace(imatrix=imatrix)
        return replace(self, origin=self.origin.learned(result), quantization=quantization)


def _write_variants(
    steps: Sequence[Quantize], model: Model, files: OpenFiles, context: StepContext
) -> list[tuple[Quantize, Layer, bool]]:
    """Write all variants side by side."""
    from mbuild.steps.tensors import TensorCache, write_variants

    variants = [
        _variant(step, model, files, f"{_IMATRIX}{number}", context)
        for number, step in enumerate(steps)
    ]
    cache = TensorCache(context.store, steps[0].origin.fields())
    blobs = write_variants(variants, model, cache, files, context)
    cache.remember_sources(steps[0].origin, files.known())
    return [
        (step, Layer(MODEL, blob.digest, blob.size), blob.existed)
        for step, blob in zip(steps, blobs, strict=True)
    ]


def _variant(
    step: Quantize, model: Model, files: OpenFiles, imatrix_name: str, context: StepContext
) -> Variant:
    """What a step makes of the model: metadata, and each tensor's new type, in order."""
    from mbuild.gguf.facts import file_type_name
    from mbuild.quant.imatrix import open_imatrix
    from mbuild.quant.metadata import quantized
    from mbuild.quant.quantize import prepare
    from mbuild.quant.recipes import plan
    from mbuild.quant.types import file_type
    from mbuild.steps.tensors import Variant

    quantization = step.quantization
    target = file_type(quantization.file_type)
    imatrix: Imatrix | None = None
    if quantization.imatrix is not None:
        imatrix = open_imatrix(files.paths[imatrix_name], name=quantization.imatrix.name)
    planned = plan(model.tensors, model.get, target, quantization.options())
    source = file_type_name(model.get("general.file_type"))
    context.status(f"quantizing {source} model to {target.name}")
    changed = {new for tensor, new in planned if new is not tensor.type}
    prepare(sorted(changed), weighted=imatrix is not None)
    about = imatrix.source(quantization.imatrix.name) if imatrix and quantization.imatrix else None
    made_of = canonical_json([step.origin.name, *map(str, quantization)])
    name = hashlib.sha256(made_of.encode()).hexdigest()[:16] + "-"
    return Variant(name, tuple(planned), quantized(model.metadata, target, about), imatrix)


def not_finite(tensor: str, error: FormatError) -> FormatError:
    """A refusal of a tensor's values, with the tensor's name."""
    return FormatError(f"{tensor}: {error.message}", hint=error.hint)
