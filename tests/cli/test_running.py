"""``mbuild run``, ``ps`` and ``stop``: with an engine of the command's, and with a server."""

from __future__ import annotations

import ast
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from gguf_files import gguf_bytes, tiny_model
from live_server import LiveServer, serving
from llama_program import processes_of, write_llama_server
from smollm import CHATML, build_models, smollm

from mbuild.cli.running import engine_of
from mbuild.core.errors import UsageError
from mbuild.runtime.process import has_engine
from mbuild.store.serving import Serving, served_at

pytestmark = pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")

CHAT = f'TEMPLATE """{CHATML}"""\nPARAMETER num_ctx 512\nPARAMETER temperature 0\n'
CHAT += "PARAMETER num_predict 8\nPARAMETER stop <|im_end|>"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_models(
        tmp_path_factory.mktemp("run"), {"chat": CHAT, "coder": f"{CHAT}\nRENDERER qwen3-coder"}
    ).root


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[LiveServer]:
    with serving(store) as running:
        yield running


def _run(
    store: Path, *arguments: str | bytes, stdin: str | bytes = "", status: int = 0
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mbuild", *arguments, "--store", str(store)]
    environment = {**os.environ, "NO_COLOR": "1"}
    text = stdin if isinstance(stdin, bytes) else stdin.encode()
    found = subprocess.run(command, input=text, capture_output=True, timeout=120, env=environment)
    said = (found.stdout.decode(), found.stderr.decode())
    done = subprocess.CompletedProcess(command, found.returncode, *said)
    assert done.returncode == status, done.stderr
    return done


def test_a_prompt_is_answered(store: Path) -> None:
    """On standard output alone; --verbose counts on standard error."""
    done = _run(store, "run", "chat", "What is the capital of France?", "--verbose")
    assert "load duration:        0.000 s" not in done.stderr
    assert "Paris" in done.stdout and "eval rate" in done.stderr
    assert "Paris" not in done.stderr


def test_standard_input_stands_before_the_prompt(store: Path) -> None:
    """A file's text, then what to do with it; nothing at all is an error with a remedy."""
    done = _run(store, "run", "chat", "is", stdin="The capital of Italy")
    assert done.stdout.strip()
    done = _run(store, "run", "chat", status=2)
    assert "there is no prompt" in done.stderr and "standard input" in done.stderr


def test_an_answer_is_json(store: Path, tmp_path: Path) -> None:
    """By the word json, by a schema, by a schema's file; else it says what --format takes."""
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}},
              "required": ["a"], "additionalProperties": False}  # fmt: skip
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    for shape in (json.dumps(schema), str(file)):
        done = _run(store, "run", "chat", "--format", shape, "A number")
        assert isinstance(json.loads(done.stdout)["a"], int)
    file.write_text('{"type":\n "object",,}')
    for shape, said in (
        ("nosuch.json", "there is no file nosuch.json"),
        ('{"enum":', "the JSON Schema of --format is not JSON: line 1, column 9"),
        (str(file), f"{file} is not JSON: line 2, column 11"),
        ("[" * 10, "there is no file"),
        (f'{{"minLength": {"1" * 5000}}}', "has a number that is too long"),
    ):
        stderr = _run(store, "run", "chat", "--format", shape, "y", status=2).stderr
        assert said in stderr and "--format takes json, a JSON Schema" in stderr


def test_json_that_was_cut_is_no_success(store: Path) -> None:
    """A warning on standard error, and status 1; a text may end anywhere."""
    schema = json.dumps({"type": "string", "minLength": 400})
    done = _run(store, "run", "chat", "--format", schema, "A story", status=1)
    assert done.stdout.startswith('"')
    assert "warning: the answer was cut short" in done.stderr and "num_predict" in done.stderr
    assert "warning" not in _run(store, "run", "chat", "Tell a long story").stderr


def test_a_prompt_that_is_cut_is_told(store: Path) -> None:
    """On standard error: how much the model got, and what makes room for more."""
    done = _run(store, "run", "chat", "What colour?", stdin="the sky is blue " * 500)
    assert done.stdout.strip() and done.stderr.count("warning:") == 1
    assert "of the prompt's 2,0" in done.stderr and "PARAMETER num_ctx" in done.stderr


def test_a_prompt_is_text(store: Path) -> None:
    """Bytes that are no UTF-8 are refused, wherever they come from."""
    done = _run(store, "run", "chat", b"a\xff", status=2)
    assert "the prompt is not UTF-8 text" in done.stderr and "iconv" in done.stderr
    done = _run(store, "run", "chat", stdin=b"caf\xe9", status=2)
    assert "standard input is not UTF-8 text (byte 4)" in done.stderr


def test_a_base_model_completes_a_prompt(tmp_path: Path) -> None:
    """Without any template the prompt is what the model goes on with, as in Ollama."""
    file, store = tmp_path / "Modelfile", tmp_path / "store"
    file.write_text(
        f"# syntax=mbuild/1\nFROM {smollm()}\nUNSET tokenizer.chat_template\nUNSET TEMPLATE\n"
        "PARAMETER temperature 0\nPARAMETER num_predict 4\nPARAMETER num_thread 1\n"
        "PARAMETER num_ctx 256\n"
    )
    _run(store, "build", "-f", str(file), "-t", "base")
    assert _run(store, "run", "base", "The capital of France is").stdout.strip().startswith("Paris")


def test_what_cannot_be_run_is_said(store: Path) -> None:
    """An unknown name, a wrong option, no server to ask; each with a way to go."""
    done = _run(store, "run", "nope", "x", status=1)
    assert "not found" in done.stderr and "hint:" in done.stderr
    done = _run(store, "run", "localhost:5885/x", "hi", status=1)
    assert "mbuild pull localhost:5885/x:latest gets it" in done.stderr
    done = _run(store, "run", "chat", "hi", "--llama-server", "/bin/cat", status=1)
    assert "takes the path of a llama-server" in done.stderr
    assert "high" in _run(store, "run", "chat", "x", "--think", "much", status=2).stderr
    assert (
        "does not support thinking"
        in _run(store, "run", "chat", "x", "--think", "true", status=1).stderr
    )
    assert "no mbuild serve runs on the store" in _run(store, "ps", status=1).stderr
    assert "no mbuild serve runs on the store" in _run(store, "stop", "chat", status=1).stderr
    done = _run(store, "run", "chat", "x", "--llama-server", "/no/such", status=2)
    assert "is not a program" in done.stderr


def test_what_may_differ_from_ollama_is_said(store: Path) -> None:
    """On standard error, before the answer of a model that names code inside Ollama."""
    done = _run(store, "run", "coder", "Hi")
    assert done.stdout.strip()
    assert "warning: coder:latest: RENDERER qwen3-coder is code inside Ollama" in done.stderr


def test_a_server_of_the_store_is_asked(store: Path, server: LiveServer) -> None:
    """The model stays loaded there; ps shows it, stop ends it."""
    assert served_at(store / ".mbuild") == (server.url, True)
    assert "Paris" in _run(store, "run", "chat", "What is the capital of France?").stdout
    rows = json.loads(_run(store, "ps", "--format", "json").stdout)
    assert [row["name"] for row in rows] == ["chat:latest"]
    shown = _run(store, "ps").stdout
    assert shown.splitlines()[0].split() == ["NAME", "ID", "SIZE", "CONTEXT", "UNTIL"]
    assert "stopped chat:latest" in _run(store, "stop", "chat").stderr
    assert _run(store, "stop", "chat").stderr == "chat:latest is not loaded\n"
    assert len(_run(store, "ps").stdout.splitlines()) == 1
    done = _run(store, "run", "chat", "x", "--format", '{"type": "colour"}', status=1)
    assert "invalid format" in done.stderr


def test_models_of_the_same_weights_are_one_engine(store: Path, server: LiveServer) -> None:
    """Ps shows the one that was asked last; whichever is stopped, the engine ends."""
    _run(store, "cp", "chat", "other")
    _run(store, "run", "other", "Hi")
    rows = json.loads(_run(store, "ps", "--format", "json").stdout)
    assert [row["name"] for row in rows] == ["other:latest"]
    assert "stopped chat:latest" in _run(store, "stop", "chat").stderr
    assert _run(store, "stop", "other").stderr == "other:latest is not loaded\n"
    _run(store, "rm", "other")


def test_a_name_that_was_built_anew_can_be_stopped(
    store: Path, server: LiveServer, tmp_path: Path
) -> None:
    """Ps shows what is loaded, which is the model as it was; one that was removed has ended."""
    _run(store, "cp", "chat", "again")
    _run(store, "run", "again", "Hi", "--keepalive", "-1s")
    (loaded,) = json.loads(_run(store, "ps", "--format", "json").stdout)
    (tmp_path / "tiny.gguf").write_bytes(gguf_bytes(tiny_model()))
    (tmp_path / "Modelfile").write_text("FROM ./tiny.gguf\n")
    _run(store, "build", "-f", str(tmp_path / "Modelfile"), "-t", "again", "--quiet")
    (row,) = json.loads(_run(store, "ps", "--format", "json").stdout)
    assert row == loaded
    assert _run(store, "stop", "again").stderr == "stopped again:latest\n"
    assert _run(store, "ps", "--format", "json").stdout == "[]\n"
    _run(store, "cp", "chat", "again")
    _run(store, "run", "again", "Hi", "--keepalive", "-1s")
    _run(store, "rm", "again")
    assert _run(store, "ps", "--format", "json").stdout == "[]\n"


def test_a_signal_that_ends_the_program_is_no_error(tmp_path: Path) -> None:
    """While the engine loads the model, and while it answers."""
    root = build_models(tmp_path, {"chat": CHAT.replace("num_predict 8", "num_predict 4000")}).root
    command = [sys.executable, "-m", "mbuild", "run", "--store", str(root), "chat", "Tell a story."]
    for seconds in (0.5, 0.8, 1.1, 2.0):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        time.sleep(seconds)
        process.terminate()
        _, said = process.communicate(timeout=60)
        # On a busy machine it may come before Python has begun with the command.
        assert process.returncode in (143, -signal.SIGTERM), said
        assert said.decode().split() in ([], ["interrupted"]), said


def test_ctrl_c_in_a_single_answer_is_an_interruption(tmp_path: Path) -> None:
    """On a terminal, too: what comes after it in a script must not go on."""
    root = build_models(tmp_path, {"chat": CHAT.replace("num_predict 8", "num_predict 4000")}).root
    terminal = _Terminal(root, "Count from one to a million.")
    terminal.until(" ")
    os.kill(terminal.pid, signal.SIGINT)
    terminal.until("interrupted")
    assert terminal.end() == 130


def test_a_server_that_runs_no_models_is_there(store: Path, tmp_path: Path) -> None:
    """In a folder that was empty, too. Ps says what it is, and run uses an engine of its own."""
    empty = tmp_path / "empty"
    empty.mkdir()
    with serving(empty, "--port", "0", "--no-run", MBUILD_TOKEN="t") as server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MBUILD_TOKEN", "t")
            done = _run(empty, "ps")
        assert done.stderr == f"note: the server at {server.url} runs no models\n"
        assert done.stdout.split() == ["NAME", "ID", "SIZE", "CONTEXT", "UNTIL"]
    own = tmp_path / "own"
    own.mkdir()
    with serving(build_models(own, {"chat": CHAT}).root, "--port", "0", "--no-run"):
        done = _run(own / "store", "run", "chat", "What is the capital of France?")
        assert "Paris" in done.stdout
        assert _run(own / "store", "ps", "--format", "json").stdout == "[]\n"
        assert _run(own / "store", "stop", "chat").stderr == "chat:latest is not loaded\n"


def test_only_a_server_that_lives_is_found(tmp_path: Path) -> None:
    """The announcement is gone with its holder, and the second server of a store has none."""
    assert served_at(tmp_path).url == ""
    first, second = Serving(tmp_path), Serving(tmp_path)
    first.announce("http://127.0.0.1:1")
    second.announce("http://127.0.0.1:2")
    assert served_at(tmp_path) == ("http://127.0.0.1:1", True)
    first.end()
    assert served_at(tmp_path) == ("", False)


def test_engines_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the option says, else the variable, else the installed package, else the path."""
    monkeypatch.delenv("MBUILD_LLAMA_SERVER", raising=False)
    program = write_llama_server(tmp_path, "other-name")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert engine_of(None) == "" and engine_of(None, off=True) is None
    assert engine_of("~/other-name") == str(program)
    with pytest.raises(UsageError, match=f"--llama-server {tmp_path} is not a program"):
        engine_of(str(tmp_path))
    monkeypatch.setenv("MBUILD_LLAMA_SERVER", str(program))
    assert engine_of(None) == str(program) and engine_of(None, off=True) is None
    assert engine_of("sh") and os.path.isabs(str(engine_of("sh")))
    monkeypatch.setenv("MBUILD_LLAMA_SERVER", "no-such-program")
    with pytest.raises(UsageError, match="MBUILD_LLAMA_SERVER=no-such-program is not a program"):
        engine_of(None)
    monkeypatch.setenv("MBUILD_LLAMA_SERVER", " ")
    assert engine_of(None) == ""
    monkeypatch.setattr("mbuild.runtime.process.has_engine", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine_of(None) is None
    write_llama_server(tmp_path)
    assert engine_of(None) == str(tmp_path / "llama-server")


@pytest.mark.parametrize("instead", [("--no-run",), ("--upstream", "http://127.0.0.1:1")])
def test_a_llama_server_that_nobody_would_ask_is_refused(
    tmp_path: Path, instead: tuple[str, ...]
) -> None:
    """By ``mbuild serve``, which runs no models then."""
    done = _run(tmp_path / "s", "serve", "--llama-server", "sh", *instead, status=2)
    assert f"--llama-server has no effect with {instead[0]}" in done.stderr


def test_a_llama_server_of_the_environment_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another program's process, which is gone with the command."""
    store = build_models(tmp_path, {"chat": CHAT}).root  # that of the others may have a server
    program = write_llama_server(tmp_path)
    monkeypatch.setenv("MBUILD_LLAMA_SERVER", str(program))
    done = _run(store, "run", "chat", "What is the capital of France?")
    assert done.stdout.strip() and not done.stderr
    options, _ = ast.literal_eval((tmp_path / "llama-server.told").read_text())
    assert options["ctx_size"] == 512
    assert not processes_of(program)


class _Terminal:
    """``mbuild run chat`` on a terminal of its own."""

    def __init__(self, store: Path, *more: str) -> None:
        pid, self._fd = pty.fork()
        if pid == 0:
            os.environ |= {"TERM": "dumb", "NO_COLOR": "1"}
            arguments = [sys.executable, "-m", "mbuild", "run", "chat", "--store", str(store)]
            os.execv(sys.executable, [*arguments, *more])
        self.pid = pid

    def until(self, text: str) -> str:
        """What it writes until a text comes."""
        found, end = "", time.monotonic() + 60
        while text not in found and time.monotonic() < end:
            if select.select([self._fd], [], [], 0.2)[0]:
                try:
                    found += os.read(self._fd, 4096).decode("utf-8", "replace")
                except OSError:
                    break
        assert text in found, found
        return found

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def end(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        os.close(self._fd)
        return os.waitstatus_to_exitcode(status)


def test_people_talk_on_a_terminal(store: Path) -> None:
    """Questions and answers until /bye; a conversation goes on, /clear forgets it."""
    terminal = _Terminal(store)
    terminal.until(">>> ")
    terminal.type("What is the capital of France?\n")
    terminal.until("Paris")
    terminal.until(">>> ")
    terminal.type("/nonsense\n")
    terminal.until("is not a command")
    terminal.type("/set system You are a pirate.\n")
    terminal.until("/set is not a command")
    terminal.type("/clear\n")
    terminal.until(">>> ")
    terminal.type('"""one\ntwo"""\n')
    terminal.until(">>> ")
    terminal.type("/?\n")
    terminal.until("/bye")
    terminal.type("/bye\n")
    assert terminal.end() == 0


def test_ctrl_c_stops_an_answer_and_not_the_talk(store: Path, tmp_path: Path) -> None:
    """The prompt is back; Ctrl-D ends."""
    long = {"long": CHAT.replace("num_predict 8", "num_predict 4000")}
    root = build_models(tmp_path, {"chat": long["long"]}).root
    terminal = _Terminal(root)
    terminal.until(">>> ")
    terminal.type("Count from one to a million.\n")
    terminal.until("\r\n")
    time.sleep(1)
    os.kill(terminal.pid, signal.SIGINT)
    terminal.until(">>> ")
    terminal.type("\x04")
    assert terminal.end() == 0


@pytest.mark.parametrize("served", [False, True])
def test_sigterm_ends_the_talk(tmp_path: Path, served: bool) -> None:
    """At the prompt and within an answer, which Ctrl-C alone would only stop."""
    root = build_models(tmp_path, {"chat": CHAT.replace("num_predict 8", "num_predict 4000")}).root
    with serving(root, "--port", "0") if served else nullcontext():
        for answers in (False, True):
            terminal = _Terminal(root)
            terminal.until(">>> ")
            if answers:
                terminal.type("Count from one to a million.\n")
                terminal.until("\r\n")
            # Python's readline hears no signal between its prompt and its wait for a key.
            time.sleep(1)
            os.kill(terminal.pid, signal.SIGTERM)
            terminal.until("interrupted")
            assert terminal.end() == 143


def test_the_page_s_commands_run(tmp_path: Path) -> None:
    """Each command of docs/run.md prints what the page shows."""
    from documents import documented

    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "smollm2.gguf").symlink_to(smollm())
    documented("run.md", tmp_path)
