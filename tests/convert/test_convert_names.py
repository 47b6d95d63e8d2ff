"""Names of tensors: the gguf package's, ours where it has none, and layers that are ahead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, TensorNameMap, get_tensor_name_map
from hyper_parameters import hyper

from mbuild.convert.families import find
from mbuild.convert.rows import names, nextn, synonyms
from mbuild.convert.rows.hyper import main_layers
from mbuild.core.errors import UnsupportedError

ENDINGS = (".weight", ".bias")


def test_what_the_package_lacks_has_ggufs_name() -> None:
    """Names below a layer that only some architectures have a place for."""
    row = find("Qwen3_5ForConditionalGeneration")
    name_of = names.name_map(hyper(row.gguf, num_hidden_layers=5), row)
    assert (
        name_of("model.layers.4.shared_head.norm.weight") == "blk.4.nextn.shared_head_norm.weight"
    )
    assert name_of("model.layers.4.eh_proj.weight") == "blk.4.nextn.eh_proj.weight"
    assert name_of("model.layers.0.mlp.up_proj.weight") == "blk.0.ffn_up.weight"
    with pytest.raises(UnsupportedError, match="no place"):
        name_of("model.layers.0.router.scale")


@pytest.mark.parametrize("name", names.LAYER_NAMES)
def test_every_name_of_ours_has_a_place_in_some_family(name: str) -> None:
    """A name that no layout has a place for would be dead."""
    from mbuild.convert.families import rows

    place = names.LAYER_NAMES[name]
    endings = {place, f"{place}.weight", f"{place}.bias"}
    assert any(endings & row.layout.names for row in rows())


def test_an_architecture_that_the_package_lacks_has_the_tensors_of_its_layout() -> None:
    """Synonyms of all architectures, as far as the layout has a place for the tensor."""
    row = find("HYV3ForCausalLM")
    assert synonyms.synonyms(row.gguf, 2) is None
    name_of = names.name_map(hyper(row.gguf), row)
    assert name_of("model.layers.1.self_attn.q_proj.weight") == "blk.1.attn_q.weight"
    assert name_of("model.embed_tokens.weight") == "token_embd.weight"
    with pytest.raises(UnsupportedError, match="no place"):
        name_of("model.layers.1.self_attn.sinks.weight")


@pytest.mark.parametrize("blocks", [0, 1, 12])
@pytest.mark.parametrize("arch", MODEL_ARCH_NAMES, ids=MODEL_ARCH_NAMES.get)
def test_names_are_the_packages(
    arch: MODEL_ARCH, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every synonym that its table of an architecture has for so many layers, and no other.

    The package writes what is special for one architecture into a table that all later ones
    start from, so each gets a copy here.
    """
    shared = dict(TensorNameMap.block_mappings_cfg)
    monkeypatch.setattr(TensorNameMap, "block_mappings_cfg", shared)
    theirs = get_tensor_name_map(arch, blocks)
    ours = synonyms.synonyms(MODEL_ARCH_NAMES[arch], blocks)
    assert ours is not None
    expected: dict[str, set[str]] = {}
    for synonym, (_, name) in theirs.mapping.items():
        assert ours.find(synonym) == name
        for ending in (".weight", ".bias", ".scale"):
            full = synonym + ending
            assert ours.find(full, ENDINGS) == theirs.get_name(full, ENDINGS)
        for number in ("12", "012", "-1", "99999999"):
            other = re.sub(r"\d+", number, synonym)
            assert ours.find(other) == theirs.get_name(other), other
        if synonym != name:
            expected.setdefault(name, set()).add(synonym)
    for name, said in list(expected.items())[:: 1 + blocks]:
        assert set(ours.synonyms(name)) == said


def test_the_table_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made once for a user and a version of the package; a damaged one is made again."""
    monkeypatch.setenv("MBUILD_HOME", str(tmp_path))
    made = synonyms.made_of_package()
    assert synonyms._kept.__wrapped__() == made
    (kept,) = (tmp_path / "names").iterdir()
    monkeypatch.setattr(synonyms, "made_of_package", lambda: pytest.fail("it is made again"))
    assert synonyms._kept.__wrapped__() == made
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    with pytest.raises(pytest.fail.Exception, match="made again"):
        synonyms._kept.__wrapped__()


@pytest.mark.parametrize(
    ("name", "behind"),
    (
        ("mtp.layers.0.mlp.up_proj.weight", "model.layers.4.mlp.up_proj.weight"),
        ("model.mtp.layers.1.input_layernorm.weight", "model.layers.5.input_layernorm.weight"),
        ("mtp.fc.weight", "model.layers.4.eh_proj.weight"),
        ("mtp.norm.weight", "model.layers.4.shared_head.norm.weight"),
        ("mtp.other.weight", "mtp.other.weight"),
        ("model.layers.0.x.weight", "model.layers.0.x.weight"),
    ),
)
def test_layers_ahead_stand_behind_the_others(name: str, behind: str) -> None:
    """They have numbers of their own in the checkpoint, or none."""
    assert nextn.behind({"num_hidden_layers": 4}, name) == behind


def test_layers_ahead_are_counted_by_their_names() -> None:
    """Qwen3-Next's config.json does not say how many there are."""
    assert nextn.ahead_layers(["mtp.layers.0.a", "mtp.layers.2.b", "mtp.fc.weight"]) == 3
    assert nextn.ahead_layers(["model.layers.7.a", "mtp.layers.x.b"]) == 0
    assert all(re.fullmatch(r"[a-z_.]+", part) for part in nextn.SHARED.values())


@pytest.mark.parametrize("count", (None, -1, 0, 1 << 16, "4", True, 2.0))
def test_a_number_of_layers_that_is_none_counts_as_none(count: object) -> None:
    """Names are made before the number is checked, and a hostile one makes nothing large."""
    assert main_layers({"num_hidden_layers": count}) == 0
