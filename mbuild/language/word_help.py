"""What each word of a Modelfile is for, in a sentence or two: for editors and the documentation."""

from __future__ import annotations

from mbuild.core.values import NamedTuple
from mbuild.language.instructions import TYPES


class InstructionHelp(NamedTuple):
    """How an instruction is written, one form a line, and what it does."""

    usage: str
    text: str

    def markdown(self, word: str) -> str:
        """For an editor: the form in a block, the text below it."""
        language = "" if word in TYPES else "\n\n*Needs the first line* `# syntax=mbuild/1`."
        return f"```modelfile\n{self.usage}\n```\n{self.text}{language}"


INSTRUCTIONS: dict[str, InstructionHelp] = {
    "FROM": InstructionHelp(
        "FROM MODEL\nFROM MODEL AS STAGE",
        "The model to start from: a name in the store, a GGUF file, a checkpoint's folder. Behind"
        " `# syntax=mbuild/1` it begins a stage, and may name an earlier one.",
    ),
    "PARAMETER": InstructionHelp(
        "PARAMETER NAME VALUE",
        "A setting for running the model. Of one name the last value counts; `stop` adds up.",
    ),
    "TEMPLATE": InstructionHelp(
        'TEMPLATE """TEXT"""',
        "How a conversation becomes the model's prompt, in Go's text/template. Without it the"
        " template is found from the model's own metadata.",
    ),
    "SYSTEM": InstructionHelp(
        'SYSTEM """TEXT"""', "The system message, where a request brings none of its own."
    ),
    "MESSAGE": InstructionHelp(
        "MESSAGE ROLE TEXT",
        "A turn that every conversation begins with. ROLE is `system`, `user` or `assistant`.",
    ),
    "LICENSE": InstructionHelp('LICENSE """TEXT"""', "The text of a licence; several add up."),
    "ADAPTER": InstructionHelp(
        "ADAPTER FILE-OR-FOLDER",
        "A LoRA adapter that is applied when the model runs. Ollama 0.34 and later run none:"
        " MERGE folds one into the weights.",
    ),
    "DRAFT": InstructionHelp(
        "DRAFT FILE", "A small model of the same vocabulary, for speculative decoding."
    ),
    "RENDERER": InstructionHelp(
        "RENDERER NAME", "The built-in renderer of Ollama that makes prompts, in TEMPLATE's place."
    ),
    "PARSER": InstructionHelp(
        "PARSER NAME", "The built-in parser of Ollama that reads answers: thinking, tool calls."
    ),
    "REQUIRES": InstructionHelp(
        "REQUIRES VERSION", "The oldest version of Ollama that runs the model, such as `0.14.0`."
    ),
    "ARG": InstructionHelp(
        "ARG NAME[=DEFAULT] ...",
        "Arguments that the file takes: `${NAME}` is the value that `--build-arg NAME=VALUE` gives,"
        " else the default. Before the first FROM they count in every stage.",
    ),
    "INCLUDE": InstructionHelp(
        "INCLUDE FILE [NAME=VALUE ...]",
        "The instructions of another file stand here. It sees the arguments that it declares,"
        " with the values given behind its name.",
    ),
    "QUANTIZE": InstructionHelp(
        "QUANTIZE TYPE ... [OPTION ...]",
        "Each type is a model of its own, and all are made from one reading of the weights. It"
        " belongs to the stage that it stands in, and is not handed on.",
    ),
    "MERGE": InstructionHelp(
        "MERGE ADAPTER [WEIGHT NUMBER]",
        "Folds a LoRA adapter (of PEFT, of mlx-lm, a GGUF file) into the weights. Several lines"
        " add up, in any order, and are rounded once.",
    ),
    "SET": InstructionHelp(
        "SET KEY VALUE",
        "A key of the GGUF metadata. Its type is the one that the key has; `int:`, `uint:`,"
        " `float:`, `bool:` or `str:` before the value says it for a new key.",
    ),
    "UNSET": InstructionHelp(
        "UNSET KEY ...\nUNSET PARAMETER NAME ...\nUNSET SYSTEM",
        "Leaves out keys of metadata, and settings or texts that the stage would inherit.",
    ),
    "DROP": InstructionHelp(
        "DROP LAYER NUMBER ...", "Takes layers out, counted from 0: `30 31` or `30-31`."
    ),
    "TAKE": InstructionHelp(
        "TAKE REGEX FROM MODEL",
        "Puts tensors of another model, whose names the expression is found in, into the place of"
        " this one's. MODEL is a stage, or what FROM can name.",
    ),
    "CHECK": InstructionHelp(
        "CHECK nan\nCHECK template renders\nCHECK size < 5GB",
        "What has to hold before the model gets its name. It belongs to the stage that it stands"
        " in.",
    ),
}
"""Every instruction of both languages, in the order of the documentation."""

KEYWORDS: dict[tuple[str, str], str] = {
    ("FROM", "AS"): "The name of the stage.",
    ("MERGE", "WEIGHT"): "How much of the adapter is added: 1 is all of it.",
    ("DROP", "LAYER"): "The layers to take out, counted from 0.",
    ("TAKE", "FROM"): "A stage, or what FROM can name.",
    ("QUANTIZE", "IMATRIX"): "An importance matrix: a file of llama-imatrix.",
    ("QUANTIZE", "FROM"): "The text that the importance matrix is computed on.",
    ("QUANTIZE", "TENSOR"): "`REGEX=TYPE`: the type of the tensors whose names match.",
    ("QUANTIZE", "OUTPUT"): "The type of `output.weight`; KEEP leaves it as it is.",
    ("QUANTIZE", "EMBEDDING"): "The type of `token_embd.weight`.",
    ("QUANTIZE", "PURE"): "One type for all tensors, except those that TENSOR matches.",
    ("QUANTIZE", "REQUANTIZE"): "Tensors that are quantized already are quantized again.",
    ("QUANTIZE", "RECIPE"): "Whose rules choose each tensor's type: `llama.cpp` or `ollama`.",
    ("QUANTIZE", "OUTTYPE"): "What a checkpoint is converted to first: `f32`, `f16`, `bf16`.",
    ("QUANTIZE", "SPLIT"): "The size of each file, a number of LAYERS, or KEEP.",
    ("QUANTIZE", "LAYERS"): "Each file has so many layers.",
    ("QUANTIZE", "CHUNKS"): "How many chunks of the text the importance matrix is computed on.",
    ("QUANTIZE", "INCLUDE"): "The importance matrix counts only for tensors with this in the name.",
    ("QUANTIZE", "EXCLUDE"): "The importance matrix counts for no tensor with this in its name.",
    ("QUANTIZE", "PRUNE"): "Layers to leave out, counted from 0: `3,7-8`.",
    ("QUANTIZE", "SIZE"): "How large the model may be.",
    ("QUANTIZE", "BPW"): "How many bits a weight may have.",
    ("UNSET", "PARAMETER"): "The parameters to leave out.",
    **{("UNSET", word): f"No {word} is inherited." for word in TYPES if word != "PARAMETER"},
    ("CHECK", "NAN"): "Every value is a finite number.",
    ("CHECK", "TEMPLATE"): "The template makes prompts of conversations.",
    ("CHECK", "RENDERS"): "The template makes prompts of conversations.",
    ("CHECK", "SIZE"): "All layers together, in bytes, KB, MB or GB.",
    ("CHECK", "KLD"): "How far the predictions are from those of the unquantized model.",
    ("CHECK", "KLD99"): "The same of the worst predictions: 99 in 100 are nearer.",
    ("CHECK", "SAME_TOP"): "How often the likeliest token is the unquantized model's.",
    ("CHECK", "CHUNKS"): "How many chunks of the text are measured.",
    ("CHECK", "PERPLEXITY"): "How surprised the model is by a text.",
    ("CHECK", "ERROR"): "How far the weights are from those of the unquantized model.",
    ("CHECK", "ANSWERS"): "What the model answers to a prompt.",
    ("CHECK", "TEXT"): "The text that is measured on.",
    ("CHECK", "WITH"): "A regular expression that the answer has to match.",
    ("CHECK", "COMPARE"): "Below, at most, above, at least.",
}
"""The words inside instructions, by instruction and word."""

PARAMETER_HELP: dict[str, str] = {
    "num_ctx": "How many tokens of a conversation the model sees, its answer included.",
    "num_predict": "The most tokens of an answer; -1 sets no bound.",
    "temperature": "How freely tokens are chosen: 0 takes the likeliest, more gives variety.",
    "top_k": "Only so many of the likeliest tokens are chosen from; 0 takes all.",
    "top_p": "Only the likeliest tokens that together have this probability are chosen from.",
    "min_p": "The least probability of a token, as a part of the likeliest one's.",
    "typical_p": "Prefers tokens that are about as surprising as the text so far; 1 is off.",
    "repeat_penalty": "How strongly a repeated token is held back; 1 is off.",
    "repeat_last_n": "How many tokens back repetition is looked for; 0 is off, -1 the context.",
    "presence_penalty": "Taken off each token that has been said at all.",
    "frequency_penalty": "Taken off each token for every time that it has been said.",
    "seed": "With the same number the same request gets the same answer; -1 draws one.",
    "stop": "A text that ends the answer; each line adds one.",
    "num_keep": "How many tokens of the beginning stay when the context is full.",
    "num_batch": "How many tokens of a prompt are worked on at once.",
    "num_gpu": "How many layers are put on the GPU; -1 is for the runner to say.",
    "main_gpu": "The number of the GPU that does the small work, where there are several.",
    "use_mmap": "Whether the file is mapped into memory rather than read.",
    "num_thread": "How many threads compute; 0 is for the runner to say.",
    "draft_num_predict": "How many tokens the draft model guesses ahead.",
}
"""Every parameter, those that are set most often first."""
