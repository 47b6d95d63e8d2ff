"""How a model family's vocabulary is read: one value in each family's row.

They say what the ``set_vocab`` methods of llama.cpp's converter do (1 October
2026). A row that says nothing has a byte-pair ``tokenizer.json`` and nothing
special, as most have; the ones here are those of several families.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from mbuild.core.values import EMPTY, FrozenValue


class Reader(StrEnum):
    """A way to read a vocabulary; ``vocabulary.readers`` has one function for each."""

    SENTENCEPIECE = "tokenizer.model"
    LLAMA_HF = "tokenizer.json with byte fallback"
    BPE = "tokenizer.json"
    WORDPIECE = "a WordPiece vocabulary"
    PHI3 = "tokenizer.model of a Phi-3"
    INTERNLM2 = "tokenizer.model of an InternLM 2"
    ARCTIC = "tokenizer.model of an Arctic"
    GEMMA4 = "tokenizer.json of a Gemma 4"
    JINA = "a WordPiece vocabulary, or tokenizer.json with the class RobertaTokenizer"
    T5 = "tokenizer.model or spiece.model"
    TEKKEN = "tekken.json"
    RWKV = "rwkv_vocab_v20230424.txt"
    PLAMO = "tokenizer.jsonl"
    XVERSE = "tokenizer.json of an XVERSE"
    XLM_ROBERTA = "sentencepiece.bpe.model or a Unigram tokenizer.json"


class Prefix(StrEnum):
    """Where ``tokenizer.ggml.add_space_prefix`` comes from, and its place."""

    NONE = "not written"
    SETTINGS_FIRST = "tokenizer_config.json's add_prefix_space, before all other keys"
    SETTINGS_MIDDLE = "tokenizer_config.json's add_prefix_space, before the special tokens"
    SETTINGS_LAST = "tokenizer_config.json's add_prefix_space, after all other keys"
    MODEL_MIDDLE = "tokenizer.model's add_dummy_prefix, before the special tokens"
    FALSE_LAST = "false, after all other keys, when tokenizer.model was read"
    FALSE_OF_JSON = "false, after the special tokens, when tokenizer.model was not read"


Ids = tuple[tuple[str, int], ...]
Wanted = tuple[tuple[str, int | None], ...]
Flags = tuple[tuple[str, bool], ...]


class VocabRule(FrozenValue):
    """One family's way.

    ``readers`` are tried in order until one finds its files. ``flags_before``
    and ``ids_after`` are written before and after everything else (kinds of
    token and values). ``tokens`` gives ids by their token's text where the
    checkpoint names none. ``second_pass`` maps a vocabulary size (0: any) to
    ids (if any) that are set unless known in a second look at the special tokens,
    ``flags_of_size`` (0: any) to flags that are then set. ``eos_in_chat`` is a token
    that replaces eos when it is there. ``pre_names`` replaces names of
    pre-tokenizers. ``segments`` writes the number of text segments last;
    ``default_segments`` is that number where config.json has none.
    ``mask_at`` is the place of a mask token that tokenizer.model lacks. ``plain`` takes added
    tokens as they stand, with the flags of their file alone. ``eos_name`` is config.json's name
    of an id that replaces eos, ``eot_first`` takes the first of several ends of
    generation_config.json for eot. ``multiple`` rounds the vocabulary's size up to a
    multiple; ``multiple_name`` is config.json's name of another one. ``controls`` are tokens that
    are control tokens whatever the files say. ``eot_besides`` takes for eot the first end in
    config.json that is not its bos. ``size_key`` is the metadata's key of the vocabulary's size,
    where the vocabulary writes it. ``template`` is the chat template of a
    checkpoint that has none, ``late_template`` reads one where others of the kind have none.
    ``template_instead`` replaces the checkpoint's, and with ``file_template`` chat_template.jinja
    does; ``elsewhere`` is the file of llama.cpp's ``models/templates`` that its converter takes
    where the checkpoint has none, and which mbuild has not; ``both_ends`` is a token of
    tokenizer_config.json that is then bos and eos, ``eot_text`` one that is eot if it is there.
    ``defaults`` are ids of what no file names, ``fixed`` those that count whatever the files say.
    """

    readers: tuple[Reader, ...] = (Reader.BPE,)
    prefix: Prefix = Prefix.NONE
    flags_before: Flags = ()
    ids_after: Ids = ()
    tokens: tuple[tuple[str, str], ...] = ()
    second_pass: Mapping[int, Wanted] = EMPTY
    flags_of_size: Mapping[int, Flags] = EMPTY
    eos_in_chat: str = ""
    pre_names: Mapping[str, str] = EMPTY
    segments: bool = False
    default_segments: int = 2
    mask_at: int = 0
    plain: bool = False
    eos_name: str = ""
    eot_first: bool = False
    multiple: int = 0
    multiple_name: str = ""
    controls: frozenset[str] = frozenset()
    eot_besides: bool = False
    size_key: str = ""
    template: str = ""
    template_instead: str = ""
    file_template: bool = False
    elsewhere: str = ""
    late_template: bool = False
    both_ends: str = ""
    eot_text: str = ""
    defaults: Ids = ()
    fixed: Ids = ()


CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The plainest chat template with the turns of ChatML."""

BPE = VocabRule()
SPM = VocabRule((Reader.SENTENCEPIECE,))
SPM_OR_BPE = VocabRule((Reader.SENTENCEPIECE, Reader.BPE))
SPM_PREFIX = VocabRule((Reader.SENTENCEPIECE,), Prefix.SETTINGS_LAST)
RWKV = VocabRule(
    (Reader.RWKV,),
    template="rwkv-world",
    defaults=(("eot", 261),),
    fixed=(("bos", 0), ("eos", 0)),
)
"""261 is an empty line, with which turns end; the template is one that llama.cpp has itself."""
WORDPIECE = VocabRule((Reader.WORDPIECE,))
XLM_ROBERTA_VOCABULARY = VocabRule((Reader.XLM_ROBERTA,))
