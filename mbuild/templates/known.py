"""The Go templates that mbuild brings along: names, files, stop texts.

The files under ``go/`` are written for this project, one a prompt format. A
name may have several: chat templates that Ollama calls by one name differ in
what they do with a system message or with line ends. In a file ``<%bos%>`` and
``<%eos%>`` stand for the model's tokens, ``<%hole%>`` for a text of the model's
own, ``<%hole-system%>`` for one that stands beside a system message, and
``<%start%>`` for what the text begins with, which may be the runtime's to write
and so be missing. Order matters: the first that matches is taken. Names and stop
texts of the formats that Ollama knows are Ollama's (v0.32, ``template/``).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from mbuild.core.values import NamedTuple

HOLES = {"<%start%>": 2, "<%hole-system%>": 2, "<%hole%>": 0}
"""Holes, and the place of the probe (mbuild.templates.probes.FINDING) that fills each."""


class Known(NamedTuple):
    """One format: its name, its file without ``.gotmpl``, stop texts, known digests.

    ``digests`` are of chat templates of this format, see :func:`text_digest`.
    """

    name: str
    file: str
    stop: tuple[str, ...]
    digests: tuple[str, ...] = ()

    def text(self, bos: str, eos: str) -> str:
        """The template with the model's tokens in it; a hole is left."""
        path = Path(__file__).parent / "go" / f"{self.file}.gotmpl"
        text = path.read_text(encoding="utf-8").removesuffix("\n")
        return text.replace("<%bos%>", bos).replace("<%eos%>", eos)


def text_digest(chat_template: str) -> str:
    """The digest by which a chat template is known: of its text with ``\\n`` line ends."""
    text = chat_template.replace("\r\n", "\n").strip()
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


KNOWN: tuple[Known, ...] = (
    Known(
        "chatml",
        "chatml",
        ("<|im_start|>", "<|im_end|>"),
        (
            "58c1a1f04baa7adaeaba1f90267c3d57d9396f0c1f0129bdde9e76d3c6784af7",
            "3ce2fe9753f9a77a601f55dfcab7cd46fbc91324aae0f78ca38d194a4eaef8d5",
            "a805e50fed68938a076b07e2e602639611b50b1ced0e50f11eb92f1ba25be4dc",
            "153280e3ff55d19da1398bdb3914ee2a51b80429bfaedde11d7d216c39db80f3",
            "e6f6e5c192657d1631c2cdf89cd8402518e7bf3f44dce4c4a7d9be74bfaa946a",
            "f42d04ffb2e487fa9c501ab886afe8fce0822f9874a9ca4284ba57e2a686a56a",
        ),
    ),
    Known(
        "chatml",
        "chatml-default-system",
        ("<|im_start|>", "<|im_end|>"),
        (
            "793202280c0910ab26bc6eb57c8212c2417324c6d8c4efd0d10d59092ab3e3eb",
            "af9c0233881b083b52ff773580215222b5440ac3d0beeeca99b76329b048f8db",
            "f02c534193010c4bd1e40fe3dd501147fa46cebadb0769d97217a2c785028783",
            "faf1f8b675beeabd4ddbb89b93bb03f94f097b3bb1ff5dfa8e99e70674a9cdbb",
        ),
    ),
    Known(
        "chatml",
        "chatml-bare-system",
        ("<|im_start|>", "<|im_end|>"),
        ("91aa728ae59c8e30443382f44f48d594b5f7afe91a449c0e5ed0e920a71d60a2",),
    ),
    Known(
        "zephyr",
        "zephyr",
        ("<|system|>", "</s>", "<|user|>", "<|assistant|>"),
        ("66291cf0045c2425a3a667cf3cbb7af2b11f09e025c02f97245323ab79119362",),
    ),
    Known(
        "zephyr",
        "zephyr-no-system",
        ("<|system|>", "</s>", "<|user|>", "<|assistant|>"),
        ("bf61473d7119388a9093c4e55e4d83651e68e1cfa985a82093a0d1a2ac114514",),
    ),
    Known(
        "openchat",
        "openchat",
        ("<|end_of_turn|>",),
        ("901b10d47195fadb5692137ecd4b2733730be9d32fde6c6eae23e5153712525e",),
    ),
    Known(
        "mistral-instruct",
        "mistral-instruct",
        ("<|im_start|>", "<|im_end|>"),
        ("26a59556925c987317ce5291811ba3b7f32ec4c647c400c6cc7e3a9993007ba7",),
    ),
    Known(
        "mistral-instruct",
        "mistral-instruct-spaced",
        ("<|im_start|>", "<|im_end|>"),
        ("7e995b379ec01747807246483647cd99030abf331653f1119e16d7ac041a3495",),
    ),
    Known(
        "starcoder2-instruct",
        "starcoder2-instruct",
        ("### Instruction", "### Response", "<|endoftext|>"),
        ("6de66c5b4eb23df882a50a73aa7759464b45dbc05495538ffbd91df35fa6c823",),
    ),
    Known(
        "magicoder",
        "magicoder",
        ("@@ Instruction", "@@ Response"),
        ("230527c8a608cf3a28953748af58780929fe77bd472e0044b1ad427bff8c956a",),
    ),
    Known(
        "llama2-chat",
        "llama2-chat",
        ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
        (
            "ea2472f29dbd93c3eb696795f6403228fcc4b775518869c771f83fbae5c11dbf",
            "e8d5b5a546d3f19df16a5320c614fab05bdc4edd50e850f1afd947b503ea41cf",
        ),
    ),
    Known(
        "codellama-70b-instruct",
        "codellama-70b-instruct",
        ("Source:", "Destination:", "<step>"),
        ("75678d463085865163b4c6dbc28f7178738d992b53124ad3612304f48a983b02",),
    ),
    Known(
        "alpaca",
        "alpaca",
        ("### Instruction:", "### Response"),
        ("993c0af704bad76aeba4263a5318f7873a06420a8eb7d40b72a49c39599c0a66",),
    ),
    Known(
        "chatqa",
        "chatqa",
        ("System:", "User:", "Assistant:", "<|begin_of_text|>"),
        ("8aeba567270fa9a8d5372caf4b04affea947c4421d96adc01e3ff94021b0ae8e",),
    ),
    Known(
        "chatqa",
        "chatqa-fixed-system",
        ("System:", "User:", "Assistant:", "<|begin_of_text|>"),
        ("cd3636885332999fc1931dc2a0070f767bc5b2af643ab05c6dc48806add23b3f",),
    ),
    Known(
        "gemma-instruct",
        "gemma-instruct",
        ("<start_of_turn>", "<end_of_turn>"),
        ("ecd6ae513fe103f0eb62e8ab5bfa8d0fe45c1074fa398b089c93a7e70c15cfd6",),
    ),
    Known(
        "gemma3-instruct",
        "gemma3-instruct",
        ("<end_of_turn>",),
        ("8d9e3a3c114fb2053ec500184677af4f7e5f8ec2582443cd535834e68b3ade29",),
    ),
    Known(
        "llama3-instruct",
        "llama3-instruct",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ("ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122",),
    ),
    Known(
        "llama3-instruct",
        "llama3-instruct-fixed-system",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ("93c0e9aa3629bbd77e68dbc0f5621f6e6b23aa8d74b932595cdb8d64684526d7",),
    ),
    Known(
        "granite-instruct",
        "granite-instruct",
        ("System:", "Question:", "Answer:"),
        ("e84ee90c8a81a15d98c58d6b541fc5a5f207507e88f5d8338b64040e40430161",),
    ),
    Known(
        "alfred",
        "alfred",
        ("<start_system>", "<end_message>", "<start_user>", "<start_assistant>"),
        ("071cfb2d4c797ad44dffad0ced15636e9ab349a23c5bba3c81e187947159cab5",),
    ),
    Known(
        "phi-3",
        "phi-3",
        ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
        ("b0e53f5e7bae6fdb93013abeceef343e8841cce87def2601e7269a53439b5740",),
    ),
    Known(
        "phi-3",
        "phi-3-no-system",
        ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
        (
            "605841622bcb6572225608f09ec2afcdfb9fb50844ef52715a12689f7b9278b1",
            "268b6082ceb7176dc6ed80557a2f7837f9f0339592fbee677d405a553af15f88",
        ),
    ),
    Known(
        "falcon-instruct",
        "falcon-instruct",
        ("User:", "Assistant:"),
        ("2c575663fbb6c03a6af2cb20f5e8b3b764af5d66c6465d4067ff5c8b25ee3d0b",),
    ),
    Known(
        "falcon-instruct",
        "falcon-instruct-lines",
        ("User:", "Assistant:"),
        ("f6084d6ec1cb3238db36169ad4bb1ecec9ef3d18a55e80347c8c7c4d6e5507a3",),
    ),
    Known(
        "solar-instruct",
        "solar-instruct",
        ("### System:", "### User:", "### Assistant"),
        ("b8e5e922a7a4ab5df61a904ef54639a27022fd84eb6b6434f09503afeca60eb4",),
    ),
    Known(
        "command-r",
        "command-r",
        ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ("9db2cf47ce03bfd0aab6ec59942503714fa0372f09f7e1d54cbcd71a1110b863",),
    ),
    Known("qwen3", "qwen3", ("<|im_start|>", "<|im_end|>")),
    Known(
        "deepseek-r1-distill",
        "deepseek-r1-distill",
        ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    ),
    Known("deepseek-v3", "deepseek-v3", ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>")),
    Known("qwq", "chatml-thinking", ("<|im_start|>", "<|im_end|>")),
    Known("smollm3", "chatml-wrapped-system", ("<|im_start|>", "<|im_end|>")),
    Known(
        "deepseek-r1-distill",
        "deepseek-r1-distill-switch",
        ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    ),
    Known(
        "deepseek-v3.2", "deepseek-v3.2", ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>")
    ),
    Known("glm-4.5", "glm-4.5", ("<|user|>", "<|observation|>", "<|endoftext|>")),
    Known("command-r7b", "command-r7b", ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>")),
    Known("kimi-k2", "kimi-k2-default-system-line", ("<|im_end|>",)),
    Known("minimax-m2", "minimax-m2", ("[e~[",)),
    Known("nemotron-3", "nemotron-3", ("<|im_end|>",)),
    Known("nemotron-nano-2", "nemotron-nano-2", ("<SPECIAL_12>",)),
    Known("reka", "reka", ("<sep>",)),
    Known("spark", "spark", ("<｜end▁of▁sentence｜>",)),
    Known("deepseek-v4", "deepseek-v4", ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>")),
    Known("ling-3", "ling-3", ("<|role_end|>",)),
    Known(
        "functionary-3.1",
        "functionary-3.1",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    Known("laguna", "laguna", ("</assistant>",)),
    Known("laguna", "laguna-lines", ("</assistant>",)),
    Known("hunyuan-3", "hunyuan-3", ("<｜hy_eos:opensource｜>",)),
    Known("apertus", "apertus", ("<|assistant_end|>",)),
    Known("solar-open", "solar-open", ("<|end|>",)),
    Known("muse", "muse", ("<|eot|>",)),
    Known("phi-4", "phi-4", ("<|im_start|>", "<|im_end|>", "<|im_sep|>")),
    Known("glm-4", "glm-4", ("<|user|>", "<|observation|>", "<|endoftext|>")),
    Known("glm-4", "glm-4-lines", ("<|user|>", "<|observation|>", "<|endoftext|>")),
    Known("granite-3", "granite-3", ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>")),
    Known(
        "granite-3",
        "granite-3-default-system",
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    ),
    Known("mistral-v3", "mistral-v3", ("[INST]", "[/INST]")),
    Known("mistral-tekken", "mistral-tekken", ("[INST]", "[/INST]")),
    Known("mistral-tekken", "mistral-system-prompt", ("[INST]", "[/INST]", "[SYSTEM_PROMPT]")),
    Known("mistral-tekken", "mistral-default-system", ("[INST]", "[/INST]", "[SYSTEM_PROMPT]")),
    Known("kimi-k2", "kimi-k2", ("<|im_end|>",)),
    Known("kimi-k2", "kimi-k2-default-system", ("<|im_end|>",)),
    Known("seed-oss", "seed-oss", ("<seed:bos>", "<seed:eos>")),
    Known("rwkv-world", "rwkv-world", ("\n\nUser:",)),
    Known("gemma-4", "gemma-4", ("<turn|>",)),
    Known("gemma-4", "gemma-4-small", ("<turn|>",)),
    Known("minimax-m3", "minimax-m3", ("[e~[",)),
    Known("kimi-k3", "kimi-k3", ("<|end_of_msg|>",)),
    Known("gigachat-3", "gigachat-3", ("<|message_sep|>",)),
    Known("llama-3.2", "llama-3.2", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    Known(
        "granite-3.3",
        "granite-3.3",
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    ),
)
"""Every format, those that Ollama knows first."""
