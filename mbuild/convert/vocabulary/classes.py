"""Special tokens that a tokenizer has by its class, and the class that a model's type has.

Those of transformers 4.57.6 (``__init__`` of the fast tokenizers, and ``tokenization_auto.py``): a
token that the files neither name nor have is added behind all others when the tokenizer is loaded.
"""

from __future__ import annotations

_WORDPIECE = "unk [UNK] sep [SEP] pad [PAD] cls [CLS] mask [MASK]"
_ROBERTA = "bos <s> eos </s> unk <unk> sep </s> pad <pad> cls <s> mask <mask>"
_LLAMA = "bos <s> eos </s> unk <unk>"
_ENDS = "bos <|endoftext|> eos <|endoftext|> unk <|endoftext|>"
_T5 = "eos </s> unk <unk> pad <pad>"

_TOKENS = (
    (_WORDPIECE, "Bert ConvBert DistilBert Electra LayoutLM MobileBert RoFormer SqueezeBert"),
    (_ROBERTA, "Bart Barthez Camembert LED Longformer MBart Nllb Roberta XLMRoberta"),
    (_LLAMA, "CodeLlama Llama"),
    (_ENDS, "CodeGen GPT2 GPTNeoX Whisper"),
    (_T5, "MT5 T5"),
    (f"{_LLAMA} pad <pad>", "Bloom"),
    ("eos <|endoftext|> unk <|endoftext|> pad <|endoftext|>", "Qwen2"),
    ("bos <bos> eos <eos> unk <unk> pad <pad>", "Gemma"),
    ("bos <BOS_TOKEN> eos <|END_OF_TURN_TOKEN|> unk <UNK>", "Cohere"),
    ("bos [CLS] eos [SEP] unk <unk> sep [SEP] pad <pad> cls [CLS] mask [MASK]", "Albert RemBert"),
    (f"bos [CLS] eos [SEP] {_WORDPIECE}", "Deberta DebertaV2"),
    (_ROBERTA.replace("unk <unk>", "unk [UNK]"), "MPNet"),
    ("bos <s> eos </s> unk <unk> sep </s> pad <pad> cls <s>", "XGLM"),
)


def _pairs(text: str) -> dict[str, str]:
    words = text.split()
    return {f"{kind}_token": token for kind, token in zip(words[::2], words[1::2], strict=True)}


CLASS_DEFAULTS: dict[str, dict[str, str]] = {
    f"{name}Tokenizer": _pairs(tokens) for tokens, names in _TOKENS for name in names.split()
}
"""Tokens by kind, for each class; the same for the class with ``Fast`` at its end."""

_TYPES = {
    "Bert": "bert",
    "Bloom": "bloom",
    "Camembert": "camembert",
    "CodeGen": "phi",
    "Cohere": "aya_vision cohere cohere2",
    "DistilBert": "distilbert",
    "GPT2": "dbrx exaone4 flex_olmo gpt2 gpt_bigcode minimax olmo3 starcoder2",
    "GPTNeoX": "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmo2 olmoe rwkv stablelm",
    "Gemma": "gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text",
    "Llama": "arcee chameleon deepseek_v2 deepseek_v3 ernie4_5 ernie4_5_moe idefics3 jamba janus"
    " llama llama4 llama4_text llava mistral mistral3 mixtral paligemma phi3 phimoe",
    "MT5": "mt5",
    "Qwen2": "internvl qwen2 qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_moe qwen2_vl qwen3 qwen3_moe"
    " qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe",
    "Roberta": "roberta",
    "T5": "t5 umt5",
    "XLMRoberta": "xlm-roberta",
}

CLASS_OF_TYPE: dict[str, str] = {
    type_: f"{name}Tokenizer" for name, types in _TYPES.items() for type_ in types.split()
}
"""The class of a ``model_type`` where tokenizer_config.json names none."""
