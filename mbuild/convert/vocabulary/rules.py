"""How each model family's vocabulary is read: one row a Hugging Face class.

The rows say what the ``set_vocab`` methods of llama.cpp's converter do (1
October 2026). A family without a row has a byte-pair ``tokenizer.json`` and
nothing special, as most have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Reader(StrEnum):
    """A way to read a vocabulary; ``vocabulary.readers`` has one function for each."""

    SENTENCEPIECE = "tokenizer.model"
    LLAMA_HF = "tokenizer.json with byte fallback"
    BPE = "tokenizer.json"
    WORDPIECE = "a WordPiece vocabulary"
    PHI3 = "tokenizer.model of a Phi-3"
    INTERNLM2 = "tokenizer.model of an InternLM 2"
    XLM_ROBERTA = "sentencepiece.bpe.model or a Unigram tokenizer.json"


class Prefix(StrEnum):
    """Where ``tokenizer.ggml.add_space_prefix`` comes from, and its place."""

    NONE = "not written"
    SETTINGS_FIRST = "tokenizer_config.json's add_prefix_space, before all other keys"
    SETTINGS_MIDDLE = "tokenizer_config.json's add_prefix_space, before the special tokens"
    SETTINGS_LAST = "tokenizer_config.json's add_prefix_space, after all other keys"
    MODEL_MIDDLE = "tokenizer.model's add_dummy_prefix, before the special tokens"
    FALSE_LAST = "false, after all other keys, when tokenizer.model was read"


Ids = tuple[tuple[str, int], ...]
Flags = tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class VocabRule:
    """One family's way.

    ``readers`` are tried in order until one finds its files. ``flags_before``
    and ``ids_after`` are written before and after everything else (kinds of
    token and values). ``tokens`` gives ids by their token's text where the
    checkpoint names none. ``second_pass`` maps a vocabulary size (0: any) to
    ids that are set unless known in a second look at the special tokens,
    ``flags_of_size`` to flags that are then set. ``eos_in_chat`` is a token
    that replaces eos when it is there. ``pre_names`` replaces names of
    pre-tokenizers. ``segments`` writes the number of text segments last;
    ``default_segments`` is that number where config.json has none.
    ``mask_at`` is the place of a mask token that tokenizer.model lacks.
    """

    readers: tuple[Reader, ...] = (Reader.BPE,)
    prefix: Prefix = Prefix.NONE
    flags_before: Flags = ()
    ids_after: Ids = ()
    tokens: tuple[tuple[str, str], ...] = ()
    second_pass: dict[int, Ids] = field(default_factory=dict)
    flags_of_size: dict[int, Flags] = field(default_factory=dict)
    eos_in_chat: str = ""
    pre_names: dict[str, str] = field(default_factory=dict)
    segments: bool = False
    default_segments: int = 2
    mask_at: int = 0


BPE = VocabRule()
SPM = VocabRule((Reader.SENTENCEPIECE,))
SPM_OR_BPE = VocabRule((Reader.SENTENCEPIECE, Reader.BPE))
SPM_PREFIX = VocabRule((Reader.SENTENCEPIECE,), Prefix.SETTINGS_LAST)

LLAMA = VocabRule(
    (Reader.SENTENCEPIECE, Reader.LLAMA_HF, Reader.BPE),
    Prefix.SETTINGS_FIRST,
    second_pass={32016: (("prefix", 32007), ("suffix", 32008), ("middle", 32009), ("eot", 32010))},
    flags_of_size={49152: (("bos", False),)},
)
"""Llama and what copies it; 32016 tokens are a CodeLlama's, 49152 a small Granite's."""

GEMMA = VocabRule(
    (Reader.SENTENCEPIECE,),
    Prefix.FALSE_LAST,
    second_pass={
        0: (("prefix", 67), ("suffix", 69), ("middle", 68), ("fsep", 70), ("eot", 107)),
    },
)
GEMMA2 = VocabRule((Reader.SENTENCEPIECE,), Prefix.FALSE_LAST)
GEMMA3 = VocabRule((Reader.SENTENCEPIECE, Reader.BPE), Prefix.FALSE_LAST)

DEEPSEEK = VocabRule(pre_names={"joyai-llm": "deepseek-v3"})
"""DeepSeek V3's pre-tokenizer has two names with one regular expression, by whether the loader
put a BOS before the check text; older llama.cpp knows only ``deepseek-v3``."""

GLM4 = VocabRule(
    tokens=(
        ("eos", "<|endoftext|>"),
        ("eot", "<|user|>"),
        ("unk", "<|endoftext|>"),
        ("bos", "<|endoftext|>"),
    )
)
GLM = VocabRule(
    tokens=(
        ("bos", "[gMASK]"),
        ("eot", "<|user|>"),
        ("unk", "<|endoftext|>"),
        ("eom", "<|observation|>"),
    )
)
BERT = VocabRule((Reader.WORDPIECE,))
XLM_ROBERTA = VocabRule((Reader.XLM_ROBERTA,))

VOCABULARIES: dict[str, VocabRule] = {
    **dict.fromkeys(
        (
            "LlamaForCausalLM",
            "LLaMAForCausalLM",
            "MistralForCausalLM",
            "MixtralForCausalLM",
            "IQuestCoderForCausalLM",
            "VLlama3ForCausalLM",
            "LlavaForConditionalGeneration",
            "VoxtralForConditionalGeneration",
            "LlamaModel",
            "ApertusForCausalLM",
            "ArceeForCausalLM",
            "GraniteForCausalLM",
            "GraniteMoeForCausalLM",
            "GraniteMoeSharedForCausalLM",
            "SmolLM3ForCausalLM",
        ),
        LLAMA,
    ),
    **dict.fromkeys(
        (
            "Qwen2ForCausalLM",
            "Qwen2Model",
            "KORMoForCausalLM",
            "Qwen3ForCausalLM",
            "Qwen3Model",
            "DeepseekForCausalLM",
            "DreamModel",
        ),
        SPM_OR_BPE,
    ),
    **dict.fromkeys(("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"), DEEPSEEK),
    **dict.fromkeys(("Glm4ForCausalLM", "Glm4vForConditionalGeneration"), GLM4),
    **dict.fromkeys(("Glm4MoeForCausalLM", "Glm4MoeLiteForCausalLM"), GLM),
    **dict.fromkeys(
        (
            "BaichuanForCausalLM",
            "BaiChuanForCausalLM",
            "MiniCPMForCausalLM",
            "MiniCPM3ForCausalLM",
            "OrionForCausalLM",
        ),
        SPM,
    ),
    **dict.fromkeys(
        ("Ernie4_5_ForCausalLM", "Ernie4_5ForCausalLM", "Ernie4_5_MoeForCausalLM"), SPM_PREFIX
    ),
    "GemmaForCausalLM": GEMMA,
    "Gemma2ForCausalLM": GEMMA2,
    "Gemma3ForCausalLM": GEMMA3,
    "Gemma3TextModel": GEMMA3,
    "Gemma3ForConditionalGeneration": GEMMA3,
    "Gemma3nForCausalLM": GEMMA3,
    "Gemma3nForConditionalGeneration": GEMMA3,
    **dict.fromkeys(("Phi3ForCausalLM", "PhiMoEForCausalLM"), VocabRule((Reader.PHI3, Reader.BPE))),
    "InternLM2ForCausalLM": VocabRule(
        (Reader.INTERNLM2,), Prefix.MODEL_MIDDLE, eos_in_chat="<|im_end|>"
    ),
    "InternLM3ForCausalLM": VocabRule(
        (Reader.SENTENCEPIECE,), Prefix.SETTINGS_MIDDLE, eos_in_chat="<|im_end|>"
    ),
    "NemotronForCausalLM": VocabRule((Reader.SENTENCEPIECE,), ids_after=(("pad", 0), ("unk", 1))),
    **dict.fromkeys(
        (
            "BertModel",
            "BertForMaskedLM",
            "CamembertModel",
            "BertForSequenceClassification",
        ),
        BERT,
    ),
    **dict.fromkeys(
        (
            "DistilBertModel",
            "DistilBertForMaskedLM",
            "DistilBertForSequenceClassification",
            "NeoBERT",
            "NeoBERTLMHead",
            "NeoBERTForSequenceClassification",
        ),
        VocabRule((Reader.WORDPIECE,), default_segments=1),
    ),
    **dict.fromkeys(
        ("RobertaModel", "RobertaForSequenceClassification"),
        VocabRule((Reader.BPE, Reader.WORDPIECE), segments=True),
    ),
    **dict.fromkeys(("XLMRobertaModel", "XLMRobertaForSequenceClassification"), XLM_ROBERTA),
    "NomicBertModel": VocabRule((Reader.WORDPIECE, Reader.XLM_ROBERTA), mask_at=250001),
    **dict.fromkeys(
        ("ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"),
        VocabRule(flags_before=(("bos", True), ("eos", True), ("sep", True))),
    ),
    "EuroBertModel": VocabRule(flags_before=(("bos", False),)),
}
"""By the class name in config.json's ``architectures``."""
