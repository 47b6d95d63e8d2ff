"""What a parameter's name or value was meant to be, where Ollama does not know it.

Loaded for a message only. Names of other programs are those of llama.cpp, the
OpenAI API, transformers, vLLM and text-generation-webui.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from mbuild.core.patterns import regex
from mbuild.core.suggest import did_you_mean, near
from mbuild.language.gonumber import parse_bool, parse_float32, parse_int
from mbuild.language.parameters import DEPRECATED, PARAMETERS, ParameterType
from mbuild.language.printable import visible

REMOVED: dict[str, str] = {
    "tfs_z": "its samplers no longer use it",
    "rope_frequency_base": "the model's own metadata says it",
    "rope_frequency_scale": "the model's own metadata says it",
    "num_gqa": "the model's own metadata says it",
    "embedding_only": "the model's own metadata says it",
    "numa": "it depends on the machine, not on the model",
}
"""Parameters that older versions of Ollama had and today's refuses, and what became of them."""

_MEANT: dict[str, str] = {
    "num_predict": "max_tokens max_new_tokens max_completion_tokens max_output_tokens n_predict"
    " predict max_length max_gen_len max_response_tokens maximum_tokens num_tokens n_tokens",
    "num_ctx": "n_ctx ctx ctx_size ctx_len ctx_length context context_length context_size"
    " context_window max_context max_context_length max_model_len max_seq_len max_seq_length"
    " max_sequence_length max_position_embeddings num_context ctx_num seq_len"
    " truncation_length n_ctx_per_seq",
    "num_gpu": "n_gpu_layers gpu_layers num_gpu_layers ngl n_gpu gpu num_gpus gpus",
    "num_thread": "n_threads threads num_threads n_thread thread cpu_threads",
    "num_batch": "n_batch batch_size batch n_ubatch ubatch_size max_num_batched_tokens",
    "num_keep": "n_keep keep",
    "repeat_penalty": "repetition_penalty rep_pen rep_penalty penalty_repeat repeat_pen",
    "repeat_last_n": "penalty_last_n rep_pen_range repetition_penalty_range repeat_last"
    " repeat_window last_n_tokens last_n",
    "presence_penalty": "presence penalty_present presence_pen",
    "frequency_penalty": "frequency penalty_freq freq_penalty freq_pen frequency_pen",
    "temperature": "temp t",
    "top_k": "topk k",
    "top_p": "topp nucleus p nucleus_p",
    "min_p": "minp",
    "typical_p": "typical typ_p",
    "seed": "random_seed rng_seed manual_seed",
    "stop": "stops stop_sequence stop_sequences stop_word stop_words stop_string stop_strings"
    " stopping_strings stop_token stop_tokens eos eos_token end_token reverse_prompt antiprompt"
    " stop_token_ids",
    "use_mmap": "mmap no_mmap",
    "main_gpu": "gpu_id gpu_device",
    "draft_num_predict": "draft_max num_speculative_tokens n_draft draft_tokens",
}
_FOREIGN = {name: meant for meant, names in _MEANT.items() for name in names.split()}

_ELSEWHERE: dict[str, str] = {
    "system": "the system message has its own instruction: SYSTEM TEXT",
    "template": "the template has its own instruction: TEMPLATE TEXT",
    "adapter": "an adapter has its own instruction: ADAPTER FILE",
    "license": "a license has its own instruction: LICENSE TEXT",
    "system_prompt": "the system message has its own instruction: SYSTEM TEXT",
    "system_message": "the system message has its own instruction: SYSTEM TEXT",
    "chat_template": "the template has its own instruction: TEMPLATE TEXT",
    "prompt_template": "the template has its own instruction: TEMPLATE TEXT",
    "lora": "an adapter has its own instruction: ADAPTER FILE",
    "model": "the model to build on has its own instruction: FROM MODEL",
    "role": "a turn has its own instruction: MESSAGE ROLE TEXT",
    "prompt": "it belongs in a request, not in the model",
    "stream": "it belongs in a request, not in the model",
    "format": "it belongs in a request, not in the model",
    "response_format": "it belongs in a request, as format, not in the model",
    "think": "it belongs in a request, not in the model",
    "reasoning_effort": "it belongs in a request, as think, not in the model",
    "tools": "it belongs in a request, not in the model",
    "grammar": "it belongs in a request, as format with a JSON schema, not in the model",
    "json_schema": "it belongs in a request, as format, not in the model",
    "guided_json": "it belongs in a request, as format, not in the model",
    "logprobs": "it belongs in a request, not in the model",
    "n_probs": "it belongs in a request, as logprobs, not in the model",
    "top_logprobs": "it belongs in a request, not in the model",
    "suffix": "it belongs in a request, not in the model",
    "images": "it belongs in a request, not in the model",
    "tool_choice": "it belongs in a request, as tools, not in the model",
    "keep_alive": "it belongs in a request, or for the server in OLLAMA_KEEP_ALIVE",
    "num_parallel": "it is a setting of the server: OLLAMA_NUM_PARALLEL",
    "n_parallel": "it is a setting of the server: OLLAMA_NUM_PARALLEL",
    "parallel": "it is a setting of the server: OLLAMA_NUM_PARALLEL",
    "flash_attention": "it is a setting of the server: OLLAMA_FLASH_ATTENTION",
    "flash_attn": "it is a setting of the server: OLLAMA_FLASH_ATTENTION",
    "kv_cache_type": "it is a setting of the server: OLLAMA_KV_CACHE_TYPE",
    "cache_type_k": "it is a setting of the server: OLLAMA_KV_CACHE_TYPE",
    "cache_type_v": "it is a setting of the server: OLLAMA_KV_CACHE_TYPE",
    "quantize": "it is an option of the build: mbuild --quantize TYPE",
    "quantization": "it is an option of the build: mbuild --quantize TYPE",
}
"""What is no parameter of a model but stands somewhere else."""

_NOWHERE = (
    (
        "Ollama does not let it be set; the model's own metadata says it: remove the line",
        "rope_freq_base rope_freq_scale rope_scaling rope_scale rope_theta rope_type"
        " yarn_orig_ctx yarn_ext_factor yarn_attn_factor yarn_beta_fast yarn_beta_slow"
        " alpha_value compress_pos_emb model_type architectures vocab_size hidden_size"
        " num_hidden_layers num_attention_heads pooling pooling_type embedding embeddings"
        " bos_token pad_token unk_token tokenizer",
    ),
    (
        "Ollama has no such setting: remove the line",
        "dry_multiplier dry_base dry_allowed_length dry_penalty_last_n dry_sequence_breakers"
        " xtc_probability xtc_threshold top_n_sigma top_a epsilon_cutoff eta_cutoff"
        " smoothing_factor smoothing_curve dynamic_temperature dynatemp_range"
        " dynatemp_exponent dynatemp_low dynatemp_high tfs tail_free_sampling tail_free"
        " mirostat_mode mirostat_lr mirostat_ent mirostat_v2 logit_bias bad_words_ids"
        " ban_eos_token ignore_eos min_tokens min_length min_new_tokens num_beams do_sample"
        " early_stopping length_penalty no_repeat_ngram_size guidance_scale cfg_scale best_of"
        " n num_return_sequences samplers sampler_seq sampling_order tensor_split split_mode"
        " mlock cache_prompt cont_batching n_cpu_moe override_tensor swa_full add_bos_token"
        " skip_special_tokens use_cache dtype torch_dtype load_in_4bit load_in_8bit device"
        " device_map gpu_memory_utilization tensor_parallel_size user store metadata"
        " service_tier echo",
    ),
)
"""What to say of settings of other programs that have no counterpart in Ollama."""
_NO_COUNTERPART = {name: said for said, names in _NOWHERE for name in names.split()}

_HUMP = regex("(?<=[a-z0-9])(?=[A-Z])")


def plain_name(name: str) -> str:
    """A name as Ollama spells names: ``maxTokens``, ``max-tokens`` and ``--max_tokens`` alike."""
    return _HUMP.sub("_", name.strip("-:=,")).lower().replace("-", "_")


def known_parameter(name: str) -> str | None:
    """Ollama's name for what is surely a parameter, of Ollama or of another program."""
    plain = plain_name(name)
    if plain in PARAMETERS or plain in DEPRECATED or plain in REMOVED:
        return plain
    foreign = _FOREIGN.get(plain)
    return foreign if foreign and len(plain) > 1 else None


def meant_parameter(name: str) -> str:
    """What to say of a parameter that Ollama does not know."""
    plain = plain_name(name)
    if plain in REMOVED:
        return f"only older versions of Ollama have it; {REMOVED[plain]}: remove the line"
    if plain in _ELSEWHERE:
        return f"it is not a model parameter: {_ELSEWHERE[plain]}"
    if plain in _NO_COUNTERPART:
        return _NO_COUNTERPART[plain]
    meant = meant_name(name)
    return did_you_mean([meant] if meant else [], f"Ollama has {', '.join(sorted(PARAMETERS))}")


def meant_name(name: str) -> str:
    """The parameter that a name which Ollama does not know was meant to be, or nothing."""
    plain = plain_name(name)
    if plain in REMOVED or plain in _ELSEWHERE:
        return ""
    if plain in PARAMETERS or plain in _FOREIGN:
        return _FOREIGN.get(plain, plain)
    return "" if plain in _NO_COUNTERPART else next(iter(near(plain, PARAMETERS)), "")


_ROLES = {
    "user": "human person me input question instruction prompt you usr users",
    "assistant": "bot ai model gpt llm answer response output character agent char assistent",
    "system": "sys developer context instructions",
}
_MEANT_ROLE = {word: role for role, words in _ROLES.items() for word in words.split()}


def meant_role(word: str) -> str:
    """The role of a MESSAGE that a word of other programs stands for, or nothing."""
    return _MEANT_ROLE.get(plain_name(word), "")


# Numbers and truth values as people write them.

_PARSERS = {
    ParameterType.INT: parse_int,
    ParameterType.FLOAT: parse_float32,
    ParameterType.BOOL: parse_bool,
}
_QUOTES = "\"'`\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b\u00ab\u00bb\u2039\u203a"
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")
_COMMENT = regex(r"\s+(?:#|//|;|--|<!--|/\*|\().*", re.S)
_THOUSANDS = regex(r"[+-]?[0-9]{1,3}(?:([ ,._'\u202f\u2019])[0-9]{3})(?:\1[0-9]{3})*")
_WHOLE = regex(r"([+-]?[0-9]+)[.,]0*")
_SUFFIXED = regex(r"([0-9]+(?:[.,][0-9]+)?)\s*([kKmM])(?:i?[bB]|i)?(?:\s*tokens?)?")
_DECIMAL_COMMA = regex(r"[+-]?[0-9]*,[0-9]+")
_PERCENT = regex(r"([0-9]+(?:[.,][0-9]+)?)\s*%")
_POWER = regex(r"([0-9]+(?:\.[0-9]+)?)[eE]\+?([0-9])")
_UNIT = regex(r"([+-]?[0-9]+(?:\.[0-9]+)?)\s*[A-Za-z]+")
_TRUTH = {
    **dict.fromkeys(("yes", "y", "on", "enable", "enabled", "true"), "true"),
    **dict.fromkeys(("no", "n", "off", "disable", "disabled", "false", "none"), "false"),
}
_FACTORS = {"k": (1024, 1000), "m": (1024**2, 1000**2)}


def _digits_grouped(kind: ParameterType, text: str) -> str:
    match = _THOUSANDS.fullmatch(text) if kind is ParameterType.INT else None
    return text.replace(match[1], "") if match else ""


def _whole(kind: ParameterType, text: str) -> str:
    match = _WHOLE.fullmatch(text) if kind is ParameterType.INT else None
    return match[1] if match else ""


def _suffixed(kind: ParameterType, text: str) -> str:
    """``8k``: of a context 8192, which ``8000`` may also mean; both are named."""
    match = _SUFFIXED.fullmatch(text) if kind is ParameterType.INT else None
    if not match:
        return ""
    number = float(match[1].replace(",", "."))
    binary, decimal = (int(number * factor) for factor in _FACTORS[match[2].lower()])
    return f"{binary} or {decimal}"


def _decimal_comma(kind: ParameterType, text: str) -> str:
    fits = kind is ParameterType.FLOAT and _DECIMAL_COMMA.fullmatch(text)
    return text.replace(",", ".") if fits else ""


def _percent(kind: ParameterType, text: str) -> str:
    match = _PERCENT.fullmatch(text) if kind is ParameterType.FLOAT else None
    return f"{float(match[1].replace(',', '.')) / 100:g}" if match else ""


def _power(kind: ParameterType, text: str) -> str:
    match = _POWER.fullmatch(text) if kind is ParameterType.INT else None
    value = float(match[1]) * 10 ** int(match[2]) if match else 0.5
    return str(int(value)) if value.is_integer() else ""


def _truth(kind: ParameterType, text: str) -> str:
    return _TRUTH.get(text.lower(), "") if kind is ParameterType.BOOL else ""


def _with_unit(kind: ParameterType, text: str) -> str:
    match = _UNIT.fullmatch(text)
    return match[1] if match and kind is not ParameterType.BOOL else ""


_READINGS: tuple[Callable[[ParameterType, str], str], ...] = (
    _digits_grouped,
    _whole,
    _suffixed,
    _decimal_comma,
    _percent,
    _power,
    _truth,
    _with_unit,
)
"""Ways in which people write numbers, one row each; the first that fits counts."""


def meant_value(name: str, text: str) -> tuple[str, str]:
    """What to write instead of a number or truth value that Ollama refuses, or nothing.

    In words, and the value itself where only one can have been meant.
    """
    kind = PARAMETERS[name]
    shown = unicodedata.normalize("NFKC", visible(text)).translate(_DASHES).strip()
    bare = _COMMENT.sub("", shown)
    meant = _reading(kind, bare.lstrip("=:").strip().strip(_QUOTES).rstrip(",;"))
    if not meant:
        return "", ""
    only = meant if " or " not in meant else ""
    if bare != shown:
        return f"a comment needs a line of its own: write PARAMETER {name} {meant}", only
    return did_you_mean([meant]), only


def meant_number(text: str) -> str:
    """The number that was probably meant by a text that is none, or nothing."""
    shown = unicodedata.normalize("NFKC", visible(text)).translate(_DASHES)
    meant = _reading(ParameterType.FLOAT, shown.strip().strip(_QUOTES).rstrip(",;"))
    return "" if meant == text else meant


def _reading(kind: ParameterType, text: str) -> str:
    """The number that a text stands for, where it is one; of two both."""
    for candidate in (text, *(read(kind, text) for read in _READINGS)):
        try:
            for part in candidate.split(" or "):
                _PARSERS[kind](part)
        except ValueError:
            continue
        return candidate
    return ""
