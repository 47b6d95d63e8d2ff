"""Scenarios L1 to L4 with other people's libraries; run with their Python, not mbuild's.

    python other_python.py URL

The server has the model ``p``. Every check is an assertion.
"""

import os
import subprocess
import sys

URL = sys.argv[1]
os.environ |= {
    "OLLAMA_HOST": URL,
    "OLLAMA_API_BASE": URL,
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


def l1_langchain():
    from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

    for kind in (ChatOllama, OllamaLLM, OllamaEmbeddings):
        kind(model="p", base_url=URL, validate_model_on_init=True)
        try:
            kind(model="nope", base_url=URL, validate_model_on_init=True)
        except ValueError as error:
            assert "p:latest" in str(error), error
        else:
            raise AssertionError("an unknown model was accepted")


def l2_llama_index():
    from llama_index.llms.ollama import Ollama

    assert Ollama(model="p", base_url=URL).get_context_window() == 512


def l3_litellm():
    import litellm
    from litellm.llms.ollama.common_utils import OllamaModelInfo

    assert "p:latest" in [m.removeprefix("ollama/") for m in OllamaModelInfo().get_models()]
    info = litellm.get_model_info("ollama/p")
    assert info["max_tokens"] == 512, info


def l4_llm():
    done = subprocess.run(
        [os.path.join(os.path.dirname(sys.executable), "llm"), "ollama", "models"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "p:latest" in done.stdout, done.stdout + done.stderr
    assert "completion" in done.stdout, done.stdout


for scenario in (l1_langchain, l2_llama_index, l3_litellm, l4_llm):
    scenario()
    print(scenario.__name__, "ok")
