"""GGUF's names for the tensors of encoders and projectors.

The published ``gguf`` package (0.19.0) has most of them in its table of the architecture that it
calls MMPROJ. What llama.cpp of October 2026 knows beside that stands here, in the same form: a
name of GGUF's, then the checkpoints' names of the same tensor, with ``{}`` for a number.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from mbuild.convert.rows.names import package_tables
from mbuild.convert.rows.synonyms import published
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NUMBER = regex(r"(?<!\d)\d+(?=\.|$)")
_BID = "{bid}"

OWN = """
mm.{} aligner.w{} vision_encoder.adapter.mlp.{}
v.patch_embd vision.patch_embed.proj model.vision_tower.vision_model.embeddings.patch_embedding
    model.vision_tower.embeddings.patch_embedding vision_encoder.patch_embed.proj
    model.vision_embedder.patch_dense model.vision_tower.patch_embedder.patch_embedding
v.norm_embd vision_encoder.patch_embed.norm
v.patch_norm.{} model.vision_embedder.patch_ln{}
v.position_embd model.vision_tower.vision_model.embeddings.position_embedding
    model.vision_tower.embeddings.position_embedding model.vision_embedder.pos_embedding
v.image_newline image_newline
v.blk.{}.attn_qkv vision.blocks.{}.attn.wqkv vision_encoder.blocks.{}.attn.qkv
v.blk.{}.attn_q model.vision_tower.vision_model.encoder.layers.{}.self_attn.q_proj
    model.vision_tower.encoder.layers.{}.self_attn.q_proj
    model.qwen2_model.model.model.layers.{}.self_attn.q_proj
    model.vision_tower.layers.{}.attn.q_proj
v.blk.{}.attn_q_norm vision_encoder.blocks.{}.attn.q_norm
v.blk.{}.attn_k model.vision_tower.vision_model.encoder.layers.{}.self_attn.k_proj
    model.vision_tower.encoder.layers.{}.self_attn.k_proj
    model.qwen2_model.model.model.layers.{}.self_attn.k_proj
    model.vision_tower.layers.{}.attn.k_proj
v.blk.{}.attn_k_norm vision_encoder.blocks.{}.attn.k_norm
v.blk.{}.attn_v model.vision_tower.vision_model.encoder.layers.{}.self_attn.v_proj
    model.vision_tower.encoder.layers.{}.self_attn.v_proj
    model.qwen2_model.model.model.layers.{}.self_attn.v_proj
    model.vision_tower.layers.{}.attn.v_proj
v.blk.{}.ln1 vision.blocks.{}.norm1 model.vision_tower.vision_model.encoder.layers.{}.layer_norm1
    model.vision_tower.encoder.layers.{}.layer_norm1 vision_encoder.blocks.{}.norm_1
    model.qwen2_model.model.model.layers.{}.input_layernorm model.vision_tower.layers.{}.norm1
v.blk.{}.attn_out vision.blocks.{}.attn.wo
    model.vision_tower.vision_model.encoder.layers.{}.self_attn.out_proj
    model.vision_tower.encoder.layers.{}.self_attn.out_proj
    model.qwen2_model.model.model.layers.{}.self_attn.o_proj vision_encoder.blocks.{}.attn.proj
    model.vision_tower.layers.{}.attn.proj
v.blk.{}.attn_sinks visual.blocks.{}.attn.sinks
v.blk.{}.ln2 vision.blocks.{}.norm2 model.vision_tower.vision_model.encoder.layers.{}.layer_norm2
    model.vision_tower.encoder.layers.{}.layer_norm2 vision_encoder.blocks.{}.norm_2
    model.qwen2_model.model.model.layers.{}.post_attention_layernorm
    model.vision_tower.layers.{}.norm2
v.blk.{}.ffn_up vision.blocks.{}.mlp.w1_up vision_encoder.blocks.{}.mlp.fc3
    model.vision_tower.vision_model.encoder.layers.{}.mlp.fc1
    model.vision_tower.encoder.layers.{}.mlp.fc1
    model.qwen2_model.model.model.layers.{}.mlp.up_proj model.vision_tower.layers.{}.mlp.fc1
v.blk.{}.ffn_gate vision.blocks.{}.mlp.w1_gate vision_encoder.blocks.{}.mlp.fc1
    model.qwen2_model.model.model.layers.{}.mlp.gate_proj
v.blk.{}.ffn_down vision.blocks.{}.mlp.w2 vision_encoder.blocks.{}.mlp.fc2
    model.vision_tower.vision_model.encoder.layers.{}.mlp.fc2
    model.vision_tower.encoder.layers.{}.mlp.fc2
    model.qwen2_model.model.model.layers.{}.mlp.down_proj model.vision_tower.layers.{}.mlp.fc2
v.blk.{}.ffn_gate_inp vision_encoder.blocks.{}.mlp.gate_weight
v.blk.{}.exp_probs_b vision_encoder.blocks.{}.mlp.router_bias
v.blk.{}.ffn_gate_exps vision_encoder.blocks.{}.mlp.experts.fc1
v.blk.{}.ffn_up_exps vision_encoder.blocks.{}.mlp.experts.fc3
v.blk.{}.ffn_down_exps vision_encoder.blocks.{}.mlp.experts.fc2
v.pre_ln vision_encoder.patch_embed.norm model.vision_tower.ln_pre
v.post_ln vision.norm model.vision_tower.vision_model.post_layernorm
    model.vision_tower.post_layernorm model.qwen2_model.model.model.norm
    model.vision_tower.ln_post
mm.post_norm vision_encoder.post_trunk_norm
mm.input_norm vision_encoder.adapter.ln_q model.merger.mlp.0.pre_norm
v.token_embd.img_start image_start
v.token_embd.img_end image_end
v.token_embd.img_pad image_pad
mm.merger.fc1 patch_merge_mlp.linear_1
mm.merger.fc2 patch_merge_mlp.linear_2
v.vit_merger.ln1 model.vision_tower.vit_merger.layer_norm1
v.vit_merger.attn_q model.vision_tower.vit_merger.self_attn.q_proj
v.vit_merger.attn_k model.vision_tower.vit_merger.self_attn.k_proj
v.vit_merger.attn_v model.vision_tower.vit_merger.self_attn.v_proj
v.vit_merger.attn_out model.vision_tower.vit_merger.self_attn.out_proj
v.vit_merger.ds_ln model.vision_tower.vit_merger.pre_norm
v.vit_merger.ds_ffn_up model.vision_tower.vit_merger.linear_1
v.vit_merger.ds_ffn_down model.vision_tower.vit_merger.linear_2
v.resample_query_768 model.qwen2_model.query_768
v.resample_query_1024 model.qwen2_model.query_1024
mm.up model.merger.mlp.0.linear_1
mm.down model.merger.mlp.0.linear_2
v.proj_blk.{}.img_pos model.layerwise_projectors.{}.image_positions
    model.spatial_projectors.{}.image_positions
v.proj_blk.{}.query model.layerwise_projectors.{}.query model.spatial_projectors.{}.query
v.proj_blk.{}.linear model.layerwise_projectors.{}.out_linear
    model.spatial_projectors.{}.out_linear
v.proj_blk.{}.norm model.layerwise_projectors.{}.norm model.spatial_projectors.{}.norm
v.proj_blk.{}.post_norm model.layerwise_projectors.{}.qformer.layernorm
    model.spatial_projectors.{}.qformer.layernorm
v.proj_blk.{}.self_attn_q
    model.layerwise_projectors.qformer.encoder.layer.{}.attention.attention.query
    model.spatial_projectors.qformer.encoder.layer.{}.attention.attention.query
v.proj_blk.{}.self_attn_k
    model.layerwise_projectors.qformer.encoder.layer.{}.attention.attention.key
    model.spatial_projectors.qformer.encoder.layer.{}.attention.attention.key
v.proj_blk.{}.self_attn_v
    model.layerwise_projectors.qformer.encoder.layer.{}.attention.attention.value
    model.spatial_projectors.qformer.encoder.layer.{}.attention.attention.value
v.proj_blk.{}.self_attn_out
    model.layerwise_projectors.qformer.encoder.layer.{}.attention.output.dense
    model.spatial_projectors.qformer.encoder.layer.{}.attention.output.dense
v.proj_blk.{}.self_attn_norm
    model.layerwise_projectors.qformer.encoder.layer.{}.attention.output.LayerNorm
    model.spatial_projectors.qformer.encoder.layer.{}.attention.output.LayerNorm
v.proj_blk.{}.cross_attn_q
    model.layerwise_projectors.qformer.encoder.layer.{}.crossattention.attention.query
    model.spatial_projectors.qformer.encoder.layer.{}.crossattention.attention.query
v.proj_blk.{}.cross_attn_k
    model.layerwise_projectors.qformer.encoder.layer.{}.crossattention.attention.key
    model.spatial_projectors.qformer.encoder.layer.{}.crossattention.attention.key
v.proj_blk.{}.cross_attn_v
    model.layerwise_projectors.qformer.encoder.layer.{}.crossattention.attention.value
    model.spatial_projectors.qformer.encoder.layer.{}.crossattention.attention.value
v.proj_blk.{}.cross_attn_out
    model.layerwise_projectors.qformer.encoder.layer.{}.crossattention.output.dense
    model.spatial_projectors.qformer.encoder.layer.{}.crossattention.output.dense
v.proj_blk.{}.cross_attn_norm
    model.layerwise_projectors.qformer.encoder.layer.{}.crossattention.output.LayerNorm
    model.spatial_projectors.qformer.encoder.layer.{}.crossattention.output.LayerNorm
v.proj_blk.{}.ffn_up model.layerwise_projectors.qformer.encoder.layer.{}.intermediate_query.dense
    model.spatial_projectors.qformer.encoder.layer.{}.intermediate_query.dense
v.proj_blk.{}.ffn_down model.layerwise_projectors.qformer.encoder.layer.{}.output_query.dense
    model.spatial_projectors.qformer.encoder.layer.{}.output_query.dense
v.proj_blk.{}.ffn_norm model.layerwise_projectors.qformer.encoder.layer.{}.output_query.LayerNorm
    model.spatial_projectors.qformer.encoder.layer.{}.output_query.LayerNorm
a.conv1d.{} sound_encoder.encoder.subsampling.layers.{} encoder.conv{}
    speaker_encoder.blocks.{}.conv
a.conv2d.{} audio_encoder.dots_encoder.speech_encoder.conv2d{}
a.conv_out audio_encoder.dots_encoder.speech_encoder.conv_out speaker_encoder.mfa.conv
a.post_ln audio_encoder.dots_encoder.speech_encoder.layer_norm encoder.layer_norm
a.blk.{}.attn_q audio_encoder.dots_encoder.speech_encoder.layers.{}.self_attn.q_proj
    sound_encoder.encoder.layers.{}.self_attn.q_proj encoder.layers.{}.self_attn.q_proj
a.blk.{}.attn_k audio_encoder.dots_encoder.speech_encoder.layers.{}.self_attn.k_proj
    sound_encoder.encoder.layers.{}.self_attn.k_proj encoder.layers.{}.self_attn.k_proj
a.blk.{}.attn_v audio_encoder.dots_encoder.speech_encoder.layers.{}.self_attn.v_proj
    sound_encoder.encoder.layers.{}.self_attn.v_proj encoder.layers.{}.self_attn.v_proj
a.blk.{}.ln1 audio_encoder.dots_encoder.speech_encoder.layers.{}.self_attn_layer_norm
    sound_encoder.encoder.layers.{}.norm_self_att encoder.layers.{}.self_attn_layer_norm
a.blk.{}.attn_out audio_encoder.dots_encoder.speech_encoder.layers.{}.self_attn.out_proj
    sound_encoder.encoder.layers.{}.self_attn.o_proj encoder.layers.{}.self_attn.out_proj
a.blk.{}.ln2 audio_encoder.dots_encoder.speech_encoder.layers.{}.final_layer_norm
    sound_encoder.encoder.layers.{}.norm_out encoder.layers.{}.final_layer_norm
a.blk.{}.ffn_norm sound_encoder.encoder.layers.{}.norm_feed_forward1
a.blk.{}.ffn_up audio_encoder.dots_encoder.speech_encoder.layers.{}.fc1_up
    sound_encoder.encoder.layers.{}.feed_forward1.linear1 encoder.layers.{}.fc1
a.blk.{}.ffn_gate audio_encoder.dots_encoder.speech_encoder.layers.{}.fc1_gate
a.blk.{}.ffn_down audio_encoder.dots_encoder.speech_encoder.layers.{}.fc2
    sound_encoder.encoder.layers.{}.feed_forward1.linear2 encoder.layers.{}.fc2
a.blk.{}.ffn_up_1 sound_encoder.encoder.layers.{}.feed_forward2.linear1
a.blk.{}.ffn_down_1 sound_encoder.encoder.layers.{}.feed_forward2.linear2
a.blk.{}.ffn_norm_1 sound_encoder.encoder.layers.{}.norm_feed_forward2
a.downsample.conv encoder.down_sample_layer.0
a.downsample.norm encoder.down_sample_norm
a.rvq.codebook
a.blk.{}.linear_pos sound_encoder.encoder.layers.{}.self_attn.relative_k_proj
a.blk.{}.pos_bias_u sound_encoder.encoder.layers.{}.self_attn.bias_u
a.blk.{}.pos_bias_v sound_encoder.encoder.layers.{}.self_attn.bias_v
a.pre_encode.out sound_encoder.encoder.subsampling.linear
mm.a.mlp.{} audio_encoder.audio_adapter.proj.{} sound_projection.linear{}
mm.a.fc speaker_encoder.fc
mm.a.norm_pre audio_encoder.audio_adapter.proj.0 sound_projection.norm
mm.a.code_embd
mm.a.local_blk.{}.attn_q audio_encoder.input_local_transformer.layers.{}.self_attn.q_proj
mm.a.local_blk.{}.attn_k audio_encoder.input_local_transformer.layers.{}.self_attn.k_proj
mm.a.local_blk.{}.attn_v audio_encoder.input_local_transformer.layers.{}.self_attn.v_proj
mm.a.local_blk.{}.attn_out audio_encoder.input_local_transformer.layers.{}.self_attn.o_proj
mm.a.local_blk.{}.ffn_gate audio_encoder.input_local_transformer.layers.{}.mlp.gate_proj
mm.a.local_blk.{}.ffn_up audio_encoder.input_local_transformer.layers.{}.mlp.up_proj
mm.a.local_blk.{}.ffn_down audio_encoder.input_local_transformer.layers.{}.mlp.down_proj
mm.a.local_blk.{}.ln1 audio_encoder.input_local_transformer.layers.{}.input_layernorm
mm.a.local_blk.{}.ln2 audio_encoder.input_local_transformer.layers.{}.post_attention_layernorm
mm.a.local_norm audio_encoder.input_local_transformer.norm
a.blk.{}.conv_dw sound_encoder.encoder.layers.{}.conv.depthwise_conv
a.blk.{}.conv_norm sound_encoder.encoder.layers.{}.conv.norm
a.blk.{}.conv_norm_mean sound_encoder.encoder.layers.{}.conv.norm.running_mean
a.blk.{}.conv_norm_var sound_encoder.encoder.layers.{}.conv.norm.running_var
    encoder.layers.{}.conv.batch_norm
a.blk.{}.conv_pw1 sound_encoder.encoder.layers.{}.conv.pointwise_conv1
    speaker_encoder.blocks.{}.tdnn1.conv
a.blk.{}.conv_pw2 sound_encoder.encoder.layers.{}.conv.pointwise_conv2
    speaker_encoder.blocks.{}.tdnn2.conv
a.blk.{}.se_conv1 speaker_encoder.blocks.{}.se_block.conv1
a.blk.{}.se_conv2 speaker_encoder.blocks.{}.se_block.conv2
a.asp_attn speaker_encoder.asp.conv
a.asp_tdnn speaker_encoder.asp.tdnn.conv
a.blk.{}.norm_conv sound_encoder.encoder.layers.{}.norm_conv
a.mel_filters sound_encoder.encoder.feature_extractor.featurizer.fb
a.window sound_encoder.encoder.feature_extractor.featurizer.window
a.blk.{}.res2.{xid}
a.gen.code.proj_in
a.gen.code.embd
a.gen.code.head
a.gen.code.out_embd
a.gen.code.blk.{}.ln1
a.gen.code.blk.{}.attn_q
a.gen.code.blk.{}.attn_q_norm
a.gen.code.blk.{}.attn_k
a.gen.code.blk.{}.attn_k_norm
a.gen.code.blk.{}.attn_v
a.gen.code.blk.{}.attn_out
a.gen.code.blk.{}.ln2
a.gen.code.blk.{}.ffn_gate
a.gen.code.blk.{}.ffn_up
a.gen.code.blk.{}.ffn_down
a.gen.code.output_norm
a.gen.wav.quant.first.in_proj
a.gen.wav.quant.first.out_proj
a.gen.wav.quant.first.codebook
a.gen.wav.quant.rest.in_proj
a.gen.wav.quant.rest.out_proj
a.gen.wav.quant.rest.codebook
a.gen.wav.pre_conv
a.gen.wav.tfm.in_proj
a.gen.wav.tfm.out_proj
a.gen.wav.tfm.output_norm
a.gen.wav.tfm.blk.{}.ln1
a.gen.wav.tfm.blk.{}.attn_q
a.gen.wav.tfm.blk.{}.attn_k
a.gen.wav.tfm.blk.{}.attn_v
a.gen.wav.tfm.blk.{}.attn_out
a.gen.wav.tfm.blk.{}.ls1
a.gen.wav.tfm.blk.{}.ln2
a.gen.wav.tfm.blk.{}.ffn_gate
a.gen.wav.tfm.blk.{}.ffn_up
a.gen.wav.tfm.blk.{}.ffn_down
a.gen.wav.tfm.blk.{}.ls2
a.gen.wav.up.blk.{}.conv
a.gen.wav.up.blk.{}.dwconv
a.gen.wav.up.blk.{}.norm
a.gen.wav.up.blk.{}.pw1
a.gen.wav.up.blk.{}.pw2
a.gen.wav.up.blk.{}.gamma
a.gen.wav.dac.entry
a.gen.wav.dac.blk.{}.snake
a.gen.wav.dac.blk.{}.conv
a.gen.wav.dac.blk.{}.res.{xid}.act1
a.gen.wav.dac.blk.{}.res.{xid}.conv1
a.gen.wav.dac.blk.{}.res.{xid}.act2
a.gen.wav.dac.blk.{}.res.{xid}.conv2
a.gen.wav.dac.post_snake
a.gen.wav.dac.post_conv
a.seanet.conv_in
a.seanet.conv_out
a.seanet.blk.{}.res_conv1
a.seanet.blk.{}.res_conv2
a.seanet.blk.{}.scale_conv
a.blk.{}.ls1
a.blk.{}.ls2
a.speaker_proj
a.gen.flow.input_proj
a.gen.flow.cond_embd
a.gen.flow.time.{}.freqs
a.gen.flow.time.{}.up
a.gen.flow.time.{}.down
a.gen.flow.time.{}.norm
a.gen.flow.blk.{}.norm
a.gen.flow.blk.{}.up
a.gen.flow.blk.{}.down
a.gen.flow.blk.{}.ada
a.gen.flow.final.ada
a.gen.flow.final.proj
a.gen.out_eos
a.gen.input_linear
a.gen.emb_mean
a.gen.emb_std
a.gen.wav.quant_out
a.gen.wav.upsample
a.gen.wav.seanet.conv_in
a.gen.wav.seanet.conv_out
a.gen.wav.seanet.blk.{}.res_conv1
a.gen.wav.seanet.blk.{}.res_conv2
a.gen.wav.seanet.blk.{}.scale_conv
"""
"""What the package lacks; a line that begins with spaces goes on with the one before."""


@cache
def clip_names() -> Mapping[str, str]:
    """All names of tensors, of checkpoints and of GGUF, without their endings, and GGUF's."""
    names = dict(_published())
    for line in OWN.replace("\n    ", " ").strip().splitlines():
        gguf, *sources = line.split()
        names |= dict.fromkeys((gguf, *sources), gguf)
    return names


def _published() -> Iterator[tuple[str, str]]:
    """What the package has."""
    constants = published("constants")
    known = set(constants.MODEL_TENSORS[constants.MODEL_ARCH.MMPROJ])
    for table in package_tables():
        for tensor, sources in table.items():
            if tensor in known:
                name = constants.TENSOR_NAMES[tensor].replace(_BID, "{}")
                for source in (name, *sources):
                    yield source.replace(_BID, "{}"), name


def clip_name(name: str, endings: tuple[str, ...]) -> str | None:
    """GGUF's name of a checkpoint's tensor, with its ending; None for one that nobody knows.

    A number may stand for itself in a name, or count layers, or both.
    """
    for ending in ("", *endings):
        if name.endswith(ending):
            found = _base(name[: len(name) - len(ending)])
            if found is not None:
                return found + ending
    return None


def _base(stem: str) -> str | None:
    names = clip_names()
    for match in _NUMBER.finditer(stem):
        start, stop = match.span()
        found = names.get(f"{stem[:start]}{{}}{stem[stop:]}")
        if found is not None:
            return found.replace("{}", match[0])
    return names.get(stem)
