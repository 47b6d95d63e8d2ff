"""Other people's clients running a model; run with their Python, not mbuild's.

    python running_python.py URL

The server has the model ``chat``, which answers. Every check is an assertion.
"""

import os
import subprocess
import sys

import ollama

URL = sys.argv[1]
os.environ |= {
    "OLLAMA_HOST": URL,
    "OLLAMA_API_BASE": URL,
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
CLIENT = ollama.Client(URL)
ASKED = "What is the capital of France?"
TALK = [{"role": "user", "content": ASKED}]
OPTIONS = {"num_predict": 12, "temperature": 0, "num_ctx": 512}


def r1_official():
    whole = CLIENT.chat("chat", TALK, options=OPTIONS)
    assert "Paris" in whole.message.content and whole.done_reason == "stop", whole
    pieces = list(CLIENT.chat("chat", TALK, options=OPTIONS, stream=True))
    assert "".join(p.message.content for p in pieces) == whole.message.content
    assert pieces[-1].done and pieces[-1].eval_count == whole.eval_count
    assert CLIENT.generate("chat", ASKED, options=OPTIONS).response == whole.message.content
    vectors = CLIENT.embed("chat", ["a", "b"], options=OPTIONS).embeddings
    assert len(vectors) == 2 and len(vectors[0]) == 576
    assert len(CLIENT.embeddings("chat", "a").embedding) == 576
    schema = {"enum": ["yes", "no"]}
    answer = CLIENT.chat("chat", TALK, format=schema, options=OPTIONS).message.content
    assert answer in ('"yes"', '"no"'), answer
    assert CLIENT.ps().models[0].model == "chat:latest"
    try:
        CLIENT.chat("chat", TALK, format={"type": "colour"})
    except ollama.ResponseError as error:
        assert error.status_code == 400
    else:
        raise AssertionError("a schema that is none was accepted")
    assert CLIENT.generate("chat", keep_alive=0).done_reason == "unload"


def r2_langchain():
    from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

    chat = ChatOllama(model="chat", base_url=URL, temperature=0, num_predict=12, num_ctx=512)
    assert "Paris" in chat.invoke(ASKED).content
    assert "Paris" in "".join(piece.content for piece in chat.stream(ASKED))
    raw = OllamaLLM(model="chat", base_url=URL, temperature=0, num_predict=12, num_ctx=512)
    assert "Paris" in raw.invoke(ASKED)
    vectors = OllamaEmbeddings(model="chat", base_url=URL, num_ctx=512).embed_documents(["a"])
    assert len(vectors[0]) == 576


def r3_llama_index():
    from llama_index.llms.ollama import Ollama

    options = {"num_predict": 12}
    model = Ollama(
        model="chat", base_url=URL, temperature=0, context_window=512, additional_kwargs=options
    )
    assert "Paris" in model.complete(ASKED).text
    assert "Paris" in "".join(piece.delta or "" for piece in model.stream_complete(ASKED))


def r4_litellm():
    import litellm

    for name in ("ollama/chat", "ollama_chat/chat"):
        options = {"temperature": 0, "max_tokens": 12, "num_ctx": 512}
        done = litellm.completion(model=name, messages=TALK, api_base=URL, **options)
        assert "Paris" in done.choices[0].message.content, done


def r5_llm():
    done = subprocess.run(
        [os.path.join(os.path.dirname(sys.executable), "llm"), "-m", "ollama/chat:latest", ASKED,
         "-o", "temperature", "0", "-o", "num_predict", "12", "-o", "num_ctx", "512",
         "--no-log"],
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and "Paris" in done.stdout, done.stdout + done.stderr


def r6_openai():
    """The official client: the old form and the new one, streamed and with a schema."""
    import openai
    import pydantic

    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    options = {"max_output_tokens": 40, "temperature": 0}
    whole = client.responses.create(model="chat", input=ASKED, **options)
    assert "Paris" in whole.output_text and whole.usage.output_tokens, whole
    with client.responses.stream(model="chat", input=ASKED, **options) as stream:
        assert stream.get_final_response().output_text == whole.output_text

    class Person(pydantic.BaseModel):
        name: str
        age: int

    asked = "Tom is five years old. Answer in JSON."
    parsed = client.responses.parse(model="chat", input=asked, text_format=Person, **options)
    assert parsed.output_parsed.name
    done = client.chat.completions.create(model="chat", messages=TALK, max_tokens=12, temperature=0)
    assert "Paris" in done.choices[0].message.content
    try:
        client.responses.create(model="chat", input=ASKED, previous_response_id="resp_1")
    except openai.BadRequestError as error:
        assert "keeps no conversations" in str(error)
    else:
        raise AssertionError("an earlier answer was found")


def r7_anthropic():
    """The official client, whole and streamed; a wrong name is its own kind of error."""
    import anthropic

    client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
    asked = {"model": "chat", "max_tokens": 40, "messages": TALK, "extra_body": {"temperature": 0}}
    whole = client.messages.create(**asked)
    assert "Paris" in whole.content[0].text and whole.stop_reason == "end_turn", whole
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text
        assert stream.get_final_message().usage == whole.usage
    try:
        client.messages.create(**{**asked, "model": "nope"})
    except anthropic.NotFoundError as error:
        assert "nope" in str(error)
    else:
        raise AssertionError("a model that is not there answered")


for scenario in (
    r1_official, r2_langchain, r3_llama_index, r4_litellm, r5_llm, r6_openai, r7_anthropic,
):  # fmt: skip
    scenario()
    print(scenario.__name__, "ok", flush=True)
