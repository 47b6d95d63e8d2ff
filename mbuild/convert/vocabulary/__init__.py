"""Vocabularies of checkpoints as GGUF metadata: every ``tokenizer.*`` key, in llama.cpp's order.

::

    entries = vocabulary(files, config, find("LlamaForCausalLM").vocabulary)

Nothing of a checkpoint is executed: templates are text, regular expressions run in a limited child
process, and every file is read with limits.
"""
