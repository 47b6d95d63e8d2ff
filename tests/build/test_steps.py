"""Each kind of step by itself: its fields, its cost, and what it makes of a tiny input."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gguf_files import tiny_gguf, tiny_model

import mbuild
from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext
from mbuild.build.sources.values import FileStamp, SourceFile
from mbuild.build.steps.config import MakeConfig
from mbuild.build.steps.gguf import ImportGGUF, Role
from mbuild.build.steps.header import HeaderPart, ReadHeader
from mbuild.build.steps.kinds import KINDS
from mbuild.build.steps.layers import MergeParameters, PutLayer
from mbuild.build.steps.manifest import Assembled, AssembleManifest
from mbuild.build.steps.origins import GGUFOrigin, LayerOrigin
from mbuild.build.steps.quantize import Quantize
from mbuild.build.steps.ranges import RANGE, RangeCache, ranges_of
from mbuild.build.steps.template import DetectTemplate
from mbuild.build.steps.together import Together
from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError, SourceError
from mbuild.gguf.facts import chat_template_of
from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.types import GGMLType, ValueType
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.types import file_type
from mbuild.store import Layer, Store
from mbuild.store.manifest import CONFIG_TYPE
from mbuild.store.media import ADAPTER, MODEL, PARAMS, SYSTEM, TEMPLATE

PACKAGE = Path(mbuild.__file__).parent


@pytest.fixture
def context(tmp_path: Path) -> Iterator[StepContext]:
    """What a running step may use, on an empty store; nobody hears of it."""
    store = Store(tmp_path / "store")
    store.begin()
    yield StepContext.silent(store)
    store.end()


def source(path: Path) -> SourceFile:
    """A file as the resolver gives it, unread."""
    return SourceFile(path.name, path, FileStamp.of(path.stat()), None)


def read(context: StepContext, made: Made) -> bytes:
    """The bytes of the one layer that a step made."""
    (layer,) = made.result.layers
    return context.store.blobs.local_path(layer.digest).read_bytes()


def stored(context: StepContext, media_type: str, data: bytes) -> Layer:
    """A layer of a model that is in the store already."""
    return Layer(media_type, context.store.blobs.put(data).digest, len(data), "base")


# The table of kinds, and who may look at a step.


def test_every_kind_has_its_name() -> None:
    """The table has each class of steps, under the kind that keys and the log have."""
    for name, kind in KINDS.items():
        if kind is not PutLayer:
            assert kind.kind == name  # type: ignore[attr-defined]
    for media_type in (SYSTEM, TEMPLATE):
        assert KINDS[PutLayer(media_type, "").kind] is PutLayer
    assert set(KINDS.values()) == set(_concrete(BaseStep))


def _concrete(kind: type[BaseStep]) -> Iterator[type[BaseStep]]:
    """The classes below a class that make steps."""
    for below in kind.__subclasses__():
        if below.__module__.startswith("mbuild."):
            yield from _concrete(below)
            if "kind" in vars(below):
                yield below


def test_nobody_asks_a_step_for_its_class() -> None:
    """Outside build/steps no ``isinstance``, ``match`` or ``getattr`` tells steps apart."""
    classes = {kind.__name__ for kind in KINDS.values()} | {"BaseStep", "Step"}
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE).as_posix()
        if inside.startswith("build/steps/") or inside == "build/graph.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if _looks_at_a_step(node, classes):
                wrong.append(f"{inside}:{node.lineno}")  # type: ignore[attr-defined]
    assert wrong == []


def _looks_at_a_step(node: ast.AST, classes: set[str]) -> bool:
    if isinstance(node, ast.MatchClass):
        return ast.unparse(node.cls).rpartition(".")[2] in classes
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
        return False
    if node.func.id in ("isinstance", "issubclass"):
        named = {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)}
        return bool(named & classes)
    return node.func.id in ("getattr", "hasattr") and "step" in ast.unparse(node.args[0]).lower()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("isinstance(step, Quantize)", True),
        ("isinstance(x, (int, steps.Quantize))", False),
        ("isinstance(x, (int, Quantize))", True),
        ("getattr(row.step, 'text', None)", True),
        ("getattr(os, 'name')", False),
        ("match x:\n case steps.Quantize(): pass", True),
    ],
)
def test_the_look_at_the_code_sees_it(code: str, found: bool) -> None:
    """The test above can fail."""
    nodes = ast.walk(ast.parse(code))
    assert any(_looks_at_a_step(node, {"Quantize"}) for node in nodes) is found


# Texts, parameters, config, manifest.


@pytest.mark.parametrize("text", ["You are Mario.", "", "é\r\n\0"])
def test_a_text_becomes_a_layer_byte_for_byte(context: StepContext, text: str) -> None:
    """As UTF-8, under its media type; a plan knows how long it is."""
    step = PutLayer(SYSTEM, text)
    assert read(context, step.run(context, [])) == text.encode()
    assert step.kind == step.label == "system"
    assert step.cost(context.store).writes == len(text.encode())


def test_parameters_are_merged_key_by_key(context: StepContext) -> None:
    """The base's, then those of a detected template, then what is given."""
    base = stored(context, PARAMS, b'{"seed":1,"stop":["a"],"top_k":5}')
    detected = Result(facts={"parameters": {"stop": ["b"]}})
    step = MergeParameters({"seed": 2}, base)
    made = json.loads(read(context, step.run(context, [detected])))
    assert made == {"seed": 2, "stop": ["b"], "top_k": 5}


def test_no_parameters_are_no_layer(context: StepContext) -> None:
    """Nothing to say, nothing made."""
    assert MergeParameters({}, None).run(context, [Result()]) == Made(Result())


def test_damaged_parameters_of_a_base_are_told(context: StepContext) -> None:
    """By an error, not by losing them."""
    with pytest.raises(DamagedError):
        MergeParameters({}, stored(context, PARAMS, b"[1]")).run(context, [])


def weights(media_type: str = MODEL, **facts: Any) -> Result:
    """The result of a step that made weights."""
    known = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"]}
    return Result((Layer(media_type, Digest.of(b"w"), 1),), {**known, **facts})


def config(context: StepContext, step: MakeConfig, inputs: Sequence[Result]) -> Mapping[str, Any]:
    """What a config step makes."""
    made: Mapping[str, Any] = json.loads(read(context, step.run(context, inputs)))
    return made


def test_a_config_says_what_the_files_are(context: StepContext) -> None:
    """From the facts of the weights, and what a request sets."""
    inputs: tuple[Step, ...] = (PutLayer(SYSTEM, "stands for weights"),)
    step = MakeConfig(None, inputs, {"parser": "qwen3"})
    made = config(context, step, [weights(model_type="8B", file_type="Q4_0")])
    assert made == {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": "8B",
        "file_type": "Q4_0",
        "parser": "qwen3",
        "architecture": "amd64",
        "os": "linux",
    }


def test_new_weights_have_their_own_type(context: StepContext) -> None:
    """A base's config says what its weights were; those of the new model count."""
    base = stored(context, CONFIG_TYPE, b'{"file_type":"F16","model_family":"llama"}')
    step = MakeConfig(base, (PutLayer(SYSTEM, ""),), {})
    assert config(context, step, [weights(file_type="Q4_0")])["file_type"] == "Q4_0"


@pytest.mark.parametrize(("count", "what"), [(0, "no model"), (2, "2 models")])
def test_one_model_it_has_to_be(context: StepContext, count: int, what: str) -> None:
    """Of no weights or of two a config cannot be made: the steps are named."""
    inputs = tuple(PutLayer(SYSTEM, str(number)) for number in range(max(count, 1)))
    given = [weights() for _ in range(count)] or [weights(ADAPTER)]
    with pytest.raises(SourceError, match=what):
        MakeConfig(None, inputs, {}).run(context, given)


def test_a_manifest_lists_layers_at_their_places(context: StepContext) -> None:
    """Inherited ones as they are, the others as their steps made them; a step may make none."""
    inherited = Layer(SYSTEM, Digest.of(b"s"), 1, "base")
    step = AssembleManifest(PutLayer(CONFIG_TYPE, "{}"), (PutLayer(TEMPLATE, "t"), inherited))
    nothing = AssembleManifest(step.config, (inherited, PutLayer(TEMPLATE, "t")))
    made_config = Result((Layer(CONFIG_TYPE, Digest.of(b"{}"), 2),))
    template = Result((Layer(TEMPLATE, Digest.of(b"t"), 1),))
    made = Assembled.of(step.run(context, [made_config, template]).result)
    assert made.manifest.layers == (*template.layers, inherited)
    assert made.id == Digest.of(made.data)
    assert Assembled.of(nothing.run(context, [made_config, Result()]).result).manifest.layers == (
        inherited,
    )
    assert step.materials[0].name == "base"


# Weights.


def zeros(path: Path) -> SourceFile:
    """A GGUF file whose weights can be quantized."""
    plain = [Tensor(t.name, t.dims, t.type, partial(bytes, t.nbytes)) for t in tiny_model()]
    return source(tiny_gguf(path, tensors=plain))


def test_an_import_learns_its_digest(context: StepContext, tmp_path: Path) -> None:
    """Before it ran it has no key; what it read gives the digest that is in it."""
    path = tiny_gguf(tmp_path / "a.gguf")
    step = ImportGGUF(source(path), Role.MODEL)
    assert step.key_fields() is None
    assert step.reads == step.cost(context.store).writes == path.stat().st_size
    made = step.run(context, [])
    assert read(context, made) == path.read_bytes()
    fields = step.learned(made.files).key_fields()
    assert fields is not None
    assert fields["role"] == "model"
    assert made.new == made.result.layers
    assert step.run(context, []).new == ()


def test_a_role_that_a_file_has_not(context: StepContext, tmp_path: Path) -> None:
    """The instruction that is right for it is named."""
    path = tiny_gguf(tmp_path / "a.gguf", kind="adapter")
    with pytest.raises(SourceError, match="it is a LoRA adapter") as told:
        ImportGGUF(source(path), Role.MODEL).run(context, [])
    assert told.value.hint == "use ADAPTER for it"


def test_a_header_is_read_beside_the_quantization(context: StepContext, tmp_path: Path) -> None:
    """Its facts come first, without digests; the last result brings those of all files."""
    origin = GGUFOrigin((zeros(tmp_path / "a.gguf"),))
    steps = [
        Quantize(origin, Quantization(file_type("Q8_0"))),
        ReadHeader(origin, HeaderPart.SHAPES),
    ]
    assert steps[0].group == steps[1].group
    made = list(steps[0].run_together(steps, context, [[], []]))
    assert [step.kind for step, _ in made] == ["header", "quantize"]
    (_, header), (_, quantized) = made
    assert header.files == {}
    assert header.result.layers == ()
    assert set(quantized.files) == {str(tmp_path / "a.gguf")}
    assert all(step.learned(quantized.files).key_fields() is not None for step in steps)


def test_a_header_alone_is_read_without_quantizing(context: StepContext, tmp_path: Path) -> None:
    """The same facts, from a file or from the layer that it became."""
    path = tiny_gguf(tmp_path / "a.gguf")
    made = ReadHeader(GGUFOrigin((source(path),)), HeaderPart.SHAPES).run(context, [])
    (layer,) = ImportGGUF(source(path), Role.MODEL).run(context, []).result.layers
    again = ReadHeader(LayerOrigin((layer,)), HeaderPart.SHAPES).run(context, [])
    assert made.result == again.result
    assert made.result.facts["architecture"] == "llama"
    names = {tensor.name: list(tensor.dims) for tensor in tiny_model()}
    assert made.result.facts["tensors"] == names


def test_readers_of_one_origin_run_together_for_one_role(tmp_path: Path) -> None:
    """A draft of the same file is another group; no role is the model's."""
    one, two = (GGUFOrigin((source(tiny_gguf(tmp_path / name)),)) for name in ("a.gguf", "b.gguf"))
    assert Together.group_of(one, "") == Together.group_of(one, Role.MODEL)
    assert Together.group_of(one, Role.DRAFT) != Together.group_of(one, Role.MODEL)
    assert Together.group_of(one, "") != Together.group_of(two, "")


def test_a_header_takes_no_time_of_its_own(context: StepContext, tmp_path: Path) -> None:
    """A plan does not count it, and a lock names no version of it."""
    step = ReadHeader(GGUFOrigin((source(tiny_gguf(tmp_path / "a.gguf")),)), HeaderPart.SHAPES)
    assert step.cost(context.store).in_passing
    assert step.versions == ()


def test_a_quantization_tells_its_cost(context: StepContext, tmp_path: Path) -> None:
    """Size, memory and each tensor, from the header; the size is the file's, to the byte."""
    step = Quantize(GGUFOrigin((zeros(tmp_path / "a.gguf"),)), Quantization(file_type("Q8_0")))
    cost = step.cost(context.store)
    (layer,) = step.run(context, []).result.layers
    assert cost.writes == layer.size
    assert cost.every_core
    assert cost.memory > 0
    assert cost.tensors == step.tensors(context.store)
    assert {tensor.name for tensor in cost.tensors} == {tensor.name for tensor in tiny_model()}


# Chat templates.


def with_template(text: Any, tokens: Any, bos: Any) -> Model:
    """Metadata as a conversion may have it."""
    return Model(
        (
            KV("tokenizer.ggml.tokens", ValueType.ARRAY, tokens, ValueType.STRING),
            KV("tokenizer.ggml.bos_token_id", ValueType.UINT32, bos),
            KV("tokenizer.chat_template", ValueType.STRING, text),
        ),
        (),
    )


def test_a_chat_template_is_what_a_reader_of_the_file_sees() -> None:
    """Bytes are texts, and the tokens around a text come by their numbers."""
    expected = {"text": "{{ x }}", "bos": "<s>", "eos": "", "adds_bos": True}
    assert chat_template_of(with_template("{{ x }}", [b"<s>", b"a"], 0)) == expected
    assert chat_template_of(with_template("{{ x }}", ["<s>", "a"], 0)) == expected
    assert chat_template_of(with_template("{{ x }}", ["<s>"], 7)) == {**expected, "bos": ""}
    assert chat_template_of(with_template("", ["<s>"], 0)) == {}


def test_no_chat_template_is_no_layer(context: StepContext) -> None:
    """From a header that had none, and from a file that is a projector."""
    step = DetectTemplate((PutLayer(SYSTEM, ""),))
    assert step.run(context, [Result()]) == Made(Result())
    projector = Result((Layer("application/vnd.ollama.image.projector", Digest.of(b""), 0),))
    assert step.run(context, [projector]) == Made(Result())


def test_a_template_is_detected_from_facts(context: StepContext) -> None:
    """With the stop parameters that belong to it, as a layer."""
    text = (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
        "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    given = Result(facts={"text": text, "bos": "", "eos": "<|im_end|>", "adds_bos": False})
    made = DetectTemplate((PutLayer(SYSTEM, ""),)).run(context, [given])
    assert b"<|im_start|>" in read(context, made)
    assert made.result.layers[0].media_type == TEMPLATE
    assert made.result.facts["template"] == "chatml"
    assert "<|im_end|>" in made.result.facts["parameters"]["stop"]


# Ranges.


def test_a_quantized_range_is_found_again(context: StepContext) -> None:
    """By its source, its types and nothing else; bytes that are not its own are not taken."""
    cache = RangeCache(context.store, None)
    tensor = next(iter(tiny_model()))
    (part,) = ranges_of(0, tensor)
    assert part.size == tensor.nbytes < RANGE
    key = cache.key(Digest.of(b"d"), part, GGMLType.Q8_0, None)
    assert key != cache.key(Digest.of(b"d"), part, GGMLType.Q4_0, None)
    assert key != cache.key(Digest.of(b"o"), part, GGMLType.Q8_0, None)
    assert cache.find(key, 1) is None
