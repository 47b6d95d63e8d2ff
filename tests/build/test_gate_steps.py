"""Steps that measure: what is in their keys and what is not, and what they need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf_files import gguf_bytes

from mbuild.build.asked import types_asked
from mbuild.build.converter import ConvertOptions
from mbuild.build.graph import Result, StepContext
from mbuild.build.sources.values import CheckpointSource, FileStamp, SourceFile
from mbuild.build.steps.changes import ChangedOrigin, SetMetadata
from mbuild.build.steps.chooser import TypeChooser
from mbuild.build.steps.choosing import ChooseTypes, chosen
from mbuild.build.steps.errors import CompareTensors, tensor_errors
from mbuild.build.steps.importances import MakeImatrix, lent_key
from mbuild.build.steps.losses import losses, samples_of
from mbuild.build.steps.measuring import AskModel, MeasureModel
from mbuild.build.steps.origins import CheckpointOrigin, GGUFOrigin, LayerOrigin
from mbuild.build.steps.quantize import Quantize
from mbuild.build.steps.unquantized import Unquantized, files_for_engine, loadable
from mbuild.cli.measure import measure_command
from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import DamagedError, UsageError
from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.types import GGMLType, ValueType
from mbuild.gguf.weights import open_weights
from mbuild.models.compare.measures import measures_of
from mbuild.quant.choose.options import Quantization, spelled
from mbuild.quant.choose.recipes import plan
from mbuild.quant.choose.types import file_type
from mbuild.store import Layer, Store
from mbuild.store.media import MODEL
from mbuild.work.cancel import Cancel
from mbuild.work.spread import Part


def file(name: str, content: str | None = "x") -> SourceFile:
    """A file whose digest is that of its content, or is not known."""
    digest = None if content is None else Digest.of(content.encode(), BLAKE3)
    return SourceFile(name, Path("/f") / name, FileStamp(1, 2, 3, 4, 5), digest)


GGUF = GGUFOrigin((file("m.gguf"),))
CHECKPOINT = CheckpointOrigin(
    CheckpointSource("c", {"config.json": file("config.json")}), ConvertOptions("auto", None)
)
STORED = LayerOrigin((Layer(MODEL, Digest.of(b"m"), 1),))
Q4 = Quantization(file_type("q4_K_M"))
STEP = Quantize(GGUF, Q4)


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is known by a name."""
    monkeypatch.setattr("mbuild.runtime.statistics.identity.engine_identity", lambda: "engine 1")


def test_a_measure_is_known_by_what_it_reads() -> None:
    """Text, length, unquantized model and engine; no bound, no name of a file or a variant."""
    step = MeasureModel(STEP, GGUF, file("t.txt"), 4)
    fields = step.key_fields()
    assert fields is not None and fields["engine"] == "engine 1"
    assert MeasureModel(STEP, GGUF, file("other.txt"), 4, "x").key_fields() == fields
    for other in (
        MeasureModel(STEP, None, file("t.txt"), 4),
        MeasureModel(STEP, GGUF, file("t.txt", "y"), 4),
        MeasureModel(STEP, GGUF, file("t.txt"), 5),
        MeasureModel(STORED.layers, GGUF, file("t.txt"), 4),
    ):
        assert other.key_fields() != fields
    unknown = MeasureModel(STEP, GGUF, file("t.txt", None))
    assert unknown.key_fields() is None
    learned = unknown.learned({"/f/t.txt": Digest.of(b"x", BLAKE3)})
    assert learned.key_fields() == MeasureModel(STEP, GGUF, file("t.txt")).key_fields()
    assert AskModel(STEP, "x" * 99).label == f"ask '{'x' * 40}'"


def test_only_what_is_no_file_is_written_for_the_engine() -> None:
    """A checkpoint and changed weights; the key of the file is in no key."""
    changed = ChangedOrigin(GGUF, (SetMetadata("k", "v"),))
    assert files_for_engine(GGUF) == files_for_engine(STORED) == ()
    for origin in (CHECKPOINT, changed):
        (step,) = files_for_engine(origin)
        assert isinstance(step, Unquantized) and step.fetches
        assert step.key_fields() == step.weights.key_fields()
        assert step.label == f"{step.weights.label}, for the engine"
        made = MakeImatrix(origin, file("t.txt"))
        assert made.needs == (step,) and made.inputs == ()


def test_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    """Where nothing was written for the engine, or the cache lost it."""
    store = Store(tmp_path)
    with (
        store.using(),
        pytest.raises(DamagedError, match="unquantized weights of c are gone"),
        loadable(CHECKPOINT, StepContext.silent(store)),
    ):
        raise AssertionError
    (step,) = files_for_engine(CHECKPOINT)
    assert not step.is_there(store, bring=False)


def test_a_matrix_is_known_by_its_text_and_its_name() -> None:
    """The name is in the file; variants that want the same have the same step."""
    step = MakeImatrix(GGUF, file("t.txt"), 5)
    assert step == MakeImatrix(GGUF, file("t.txt"), 5)
    keys = [
        MakeImatrix(origin, text, chunks).key_fields()
        for origin, text, chunks in (
            (GGUF, file("t.txt"), 5),
            (GGUF, file("u.txt"), 5),
            (GGUF, file("t.txt", "y"), 5),
            (GGUF, file("t.txt"), 6),
            (CHECKPOINT, file("t.txt"), 5),
        )
    ]
    assert len({str(key) for key in keys}) == len(keys)
    assert lent_key(step.label) != lent_key("another label")
    quantize = Quantize(GGUF, Q4, imatrix=step)
    assert quantize.inputs == (step,) and quantize.matrix is None
    assert quantize.key_fields() == Quantize(GGUF, Q4).key_fields()  # the input decides


def test_a_choice_is_an_input_of_its_quantization() -> None:
    """Known by the budget and what the user names; what it comes to is asked again."""
    wanted = Quantization.parse("4.6bpw", {"tensor_type": ["attn_v=q8_0"], "imatrix_from": "t"})
    matrix = MakeImatrix(GGUF, file("t.txt"))
    step = ChooseTypes(GGUF, wanted, matrix)
    assert step.inputs == (matrix,) and step.target == "4.6bpw"
    assert step.key_fields() != ChooseTypes(GGUF, Quantization(file_type("4.5bpw"))).key_fields()
    named = Quantization.parse("q5_K_M", {"pure": True, "tensor_type": ["ffn=q4_K"]})
    found = chosen(Result(facts={"quantization": named.to_json()}), wanted)
    assert found == named._replace(imatrix_from="t")
    quantize = Quantize(GGUF, wanted, imatrix=matrix, choice=step)
    assert quantize.inputs == (matrix, step) and quantize.target == "4.6bpw"


def _weights(path: Path, type_: GGMLType, data: bytes, columns: int = 32) -> Path:
    metadata = (KV("general.architecture", ValueType.STRING, "llama"),)
    tensor = Tensor("blk.0.ffn_up.weight", (columns, 2), type_, lambda: data)
    path.write_bytes(gguf_bytes(Model(metadata, (tensor,))))
    return path


def test_errors_are_of_tensors_that_changed_their_type(tmp_path: Path) -> None:
    """By hand: one block that is off by a known amount; another shape is no quantization."""
    values = np.arange(64, dtype="<f4")
    blocks = b"".join(
        np.float16(1).tobytes() + bytes(range(start, start + 31)) + bytes([start + 33])
        for start in (0, 32)
    )
    source = Model(
        (), (Tensor("blk.0.ffn_up.weight", (32, 2), GGMLType.F32, lambda: values.tobytes()),)
    )
    made = _weights(tmp_path / "a.gguf", GGMLType.Q8_0, blocks)
    context = StepContext.silent(Store(tmp_path / "store"))
    with open_weights([made], ["a"]) as weights:
        (row,) = tensor_errors(source, weights, context)
    assert row[:3] == ("blk.0.ffn_up.weight", "F32", "Q8_0")
    expected = np.sqrt((2.0**2 + 2.0**2) / float((values.astype(float) ** 2).sum()))
    assert row.error == pytest.approx(expected)
    same = _weights(tmp_path / "b.gguf", GGMLType.F32, values.tobytes())
    with open_weights([same], ["b"]) as weights:
        assert tensor_errors(source, weights, context) == []
    step = CompareTensors(GGUF, STEP, "x")
    assert (
        step.label == "compare tensors with m.gguf for x" and step.cost(context.store).writes == 0
    )
    wrong = Model((), (Tensor("blk.0.ffn_up.weight", (16, 4), GGMLType.F32, values.tobytes),))
    with open_weights([made], ["a"]) as weights, pytest.raises(DamagedError, match="not a tensor"):
        tensor_errors(wrong, weights, context)


def test_samples_are_spread_over_a_tensor() -> None:
    """Sixteen pieces of whole rows, from the first to nearly the last; all of a small one."""
    small = Tensor("t", (32, 2), GGMLType.F32, lambda: bytes(256))
    (one,) = samples_of(small)
    assert (one.first, one.size) == (0, 256)


def test_losses_are_remembered(tmp_path: Path) -> None:
    """Of the same rows, types and importances; what a tensor keeps loses nothing."""
    values = np.random.default_rng(1).normal(size=(64, 256)).astype("<f4")
    tensor = Tensor("blk.0.ffn_up.weight", (256, 64), GGMLType.F32, values.tobytes)
    store = Store(tmp_path)
    with store.using():
        context, part = StepContext.silent(store), Part(Cancel())
        types = [GGMLType.Q4_0, GGMLType.Q8_0, GGMLType.F32]
        first = losses(tensor, types, None, context, part)
        assert first[GGMLType.Q8_0].relative < 0.01 < first[GGMLType.Q4_0].relative
        assert first[GGMLType.F32].relative == 0
        whole = float((values.astype(float) ** 2).sum())
        assert first[GGMLType.Q4_0].whole == pytest.approx(whole)
        assert losses(tensor, types, None, context, part) == first and part.done == 6


def test_types_are_chosen_within_the_bits(tmp_path: Path) -> None:
    """The flags give them; what is easier to keep gets more; too few bits are refused."""
    random = np.random.default_rng(2)
    rows = {
        "blk.0.attn_q.weight": random.normal(size=(32, 256)),
        "blk.0.ffn_up.weight": np.round(random.normal(size=(64, 256))),
        "blk.0.attn_norm.weight": random.normal(size=256),
    }
    tensors = tuple(
        Tensor(name, values.shape[::-1], GGMLType.F32, values.astype("<f4").tobytes)
        for name, values in rows.items()
    )
    model = Model((KV("general.architecture", ValueType.STRING, "llama"),), tensors)
    store = Store(tmp_path)
    with store.using():
        context = StepContext.silent(store)
        found = TypeChooser(Quantization(file_type("5.5bpw")), model, None, context).facts()
        assert 4.5 < found["bits"] <= 5.5
        assert found["bits"] == pytest.approx(8 * found["size"] / 24832, abs=1e-3)
        named = Quantization.from_json(found["quantization"])
        types = {tensor.name: new for tensor, new in plan(model.tensors, model.get, named)}
        assert types["blk.0.attn_norm.weight"] is GGMLType.F32
        assert found["flags"].startswith(f"-q {spelled(named.file_type.name)} --pure")
        assert found["modelfile"].startswith(f"QUANTIZE {spelled(named.file_type.name)} PURE")
        least = set()
        for name in ("2bpw", "1bpw", "0.01bpw", "1B"):
            with pytest.raises(UsageError, match=f"^{name} is too small: the model's") as caught:
                TypeChooser(Quantization(file_type(name)), model, None, context).facts()
            least.add(caught.value.message.partition("at least")[2])
        assert len(least) == 1


def test_a_model_that_was_not_built_here_has_no_measures(tmp_path: Path) -> None:
    """Nothing to compare; the commands that measure say what they take."""
    assert measures_of(None, None, Store(tmp_path)) == ()
    assert {"tensors", "text"} <= {each.name for each in measure_command.params}


@pytest.mark.parametrize("text", ["x", "-1", "nan", "1e9", "4.6,5", "4.", "", "4.6.1", "٤"])
def test_bits_are_a_number(text: str) -> None:
    """What is none is said in the words of its option."""
    with pytest.raises(UsageError, match=r"--bpw: .* is not a number of bits such as 4\.6"):
        types_asked({"quantize": (), "size": (), "bpw": (text,)})
