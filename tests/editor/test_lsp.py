"""``mbuild lsp`` driven by a client of the protocol over standard input and output."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from language_client import SECONDS, Editor, editing
from lsprotocol import types as lsp

from mbuild.cli.lsp import lsp_command
from mbuild.editor.server import TRIGGERS, make_server

CORPUS = sorted((Path(__file__).parents[2] / "grammar/corpus").rglob("*.Modelfile"))
HEAD = "# syntax=mbuild/1\n"


def edit(folder: Path, work: Callable[[Editor], Awaitable[None]], *arguments: str) -> None:
    """Do something in an editor whose folder this is."""

    async def session() -> None:
        async with editing(folder, *arguments) as editor:
            await work(editor)

    asyncio.run(session())


def test_problems_are_told_with_their_places(tmp_path: Path) -> None:
    """Errors and warnings, with code and remedy; gone once the text is right."""

    async def work(editor: Editor) -> None:
        found = await editor.open("Modelfile", 'FROM x\nSYSTEM "😋"\nPARAMETER max_tokens 5\n')
        (problem,) = found
        assert problem.range == lsp.Range(lsp.Position(2, 10), lsp.Position(2, 20))
        assert (problem.code, problem.source) == ("unknown-parameter", "mbuild")
        assert problem.severity is lsp.DiagnosticSeverity.Error
        assert problem.message.endswith("did you mean num_predict?")
        (warned,) = await editor.change("Modelfile", "FROM x\nPARAMETER temperature 99\n")
        assert warned.severity is lsp.DiagnosticSeverity.Warning
        assert await editor.change("Modelfile", "FROM x\nPARAMETER temperature 1\n") == []
        (none,) = await editor.change("Modelfile", "SYSTEM x\n")
        assert none.code == "missing-from"
        assert await editor.change("Modelfile", "FROM x\n") == []

    edit(tmp_path, work)


FIXED = [
    ("FROM x\nPARAMETER max_tokens 5\n", "FROM x\nPARAMETER num_predict 5\n"),
    ("FORM x\n", "FROM x\n"),
    ("FROM x\nPARAMETER temperature 0,7\n", "FROM x\nPARAMETER temperature 0.7\n"),
    ("FROM x\nPARAMETER top_k 40 # few\n", "FROM x\nPARAMETER top_k 40\n"),
    ("FROM x\nPARAMETER top_k=40\n", "FROM x\nPARAMETER top_k 40\n"),
    ("FROM x\nMESSAGE users hi\n", "FROM x\nMESSAGE user hi\n"),
    ("FROM x\nPARAMETER mirostat 1\nSYSTEM a\n", "FROM x\nSYSTEM a\n"),
    ("FROM x\nSYSTEM a\nSYSTEM b\n", "FROM x\nSYSTEM b\n"),
    ("FROM x\nSYSTEM \u201ca\u201d\n", "FROM x\nSYSTEM a\n"),
    ('FROM x\nPARAMETER stop ["a", "b"]\n', "FROM x\nPARAMETER stop a\nPARAMETER stop b\n"),
    ("FROM x # mine\n", "FROM x\n"),
    ("FROM\u00a0x\n", "FROM x\n"),
    ("FROM x\nnum_ctx 5\n", "FROM x\nPARAMETER num_ctx 5\n"),
    ("FROM x\nQUANTIZE q8_0\n", f"{HEAD}FROM x\nQUANTIZE q8_0\n"),
    ("FROM x AS y\n", f"{HEAD}FROM x AS y\n"),
    (f"{HEAD}FROM x\nMERGE a\nMERGE a\n", f"{HEAD}FROM x\nMERGE a\n"),
    (f"{HEAD}FROM x\nSET a.b 1\nSET a.b 2\n", f"{HEAD}FROM x\nSET a.b 2\n"),
]


def test_quick_fixes_take_problems_away(tmp_path: Path) -> None:
    """Each is the one change of its problem, and after it nothing is wrong."""

    async def work(editor: Editor) -> None:
        for number, (text, wanted) in enumerate(FIXED):
            name = f"Modelfile.{number}"
            problems = await editor.open(name, text)
            assert problems, text
            asked = lsp.CodeActionParams(
                editor.document(name), problems[0].range, lsp.CodeActionContext(problems)
            )
            actions = await editor.client.text_document_code_action_async(asked)
            (action,) = actions or ()
            assert isinstance(action, lsp.CodeAction) and action.edit and action.edit.changes
            assert action.diagnostics is not None and list(action.diagnostics) == problems[:1]
            (edits,) = action.edit.changes.values()
            assert editor.edited(name, edits) == wanted
            assert await editor.change(name, wanted) == [], wanted

    edit(tmp_path, work)


STAGED = f"""{HEAD}ARG BITS=q8_0
FROM ./base AS tuned
SYSTEM @./system.txt
FROM tuned
QUANTIZE ${{BITS}}
"""


def test_completion_hover_definition_symbols_and_formatting(tmp_path: Path) -> None:
    """What an editor asks while one writes, each once."""
    (tmp_path / "base").mkdir()
    (tmp_path / "system.txt").write_text("Be kind.\n")

    async def work(editor: Editor) -> None:
        client = editor.client
        assert await editor.open("Modelfile", STAGED) == []
        document = editor.document("Modelfile")
        at = editor.place("Modelfile", "FROM tuned\nQUANTIZE ")
        items = await client.text_document_completion_async(lsp.CompletionParams(document, at))
        assert isinstance(items, list)
        (q8_0,) = (item for item in items if item.label == "q8_0")
        assert q8_0.text_edit == lsp.TextEdit(lsp.Range(at, at), "q8_0")
        assert q8_0.detail == "most tensors in Q8_0, 8.5 bits a weight"
        assert items == sorted(items, key=lambda item: item.sort_text or "")
        at = editor.place("Modelfile", "SYST")
        hover = await client.text_document_hover_async(lsp.HoverParams(document, at))
        assert hover is not None and isinstance(hover.contents, lsp.MarkupContent)
        assert "The system message" in hover.contents.value
        places = {}
        for word in ("FROM tun", "${BI", "sys"):
            asked = lsp.DefinitionParams(document, editor.place("Modelfile", word))
            places[word] = await client.text_document_definition_async(asked)
        assert places["sys"].uri == editor.uri("system.txt")  # type: ignore[union-attr]
        assert places["FROM tun"].range.start == lsp.Position(2, 15)  # type: ignore[union-attr]
        assert places["${BI"].range.start == lsp.Position(1, 4)  # type: ignore[union-attr]
        symbols = await client.text_document_document_symbol_async(
            lsp.DocumentSymbolParams(document)
        )
        assert [each.name for each in symbols or ()] == ["ARG", "tuned", "stage 1"]
        loose = STAGED.replace("FROM tuned", "from   tuned")
        await editor.change("Modelfile", loose)
        options = lsp.FormattingOptions(tab_size=4, insert_spaces=True)
        asked_format = lsp.DocumentFormattingParams(document, options)
        edits = await client.text_document_formatting_async(asked_format)
        assert editor.edited("Modelfile", edits or ()) == STAGED
        await editor.change("Modelfile", STAGED)
        edited = await client.text_document_formatting_async(asked_format)
        assert not edited and edited is not None
        await editor.change("Modelfile", "FROM\n")
        assert await client.text_document_formatting_async(asked_format) is None

    edit(tmp_path, work)


def test_an_included_file_is_of_the_language_of_who_includes_it(tmp_path: Path) -> None:
    """Its text in the editor counts before the disk's; what is wrong in it shows at INCLUDE."""
    (tmp_path / "persona").write_text("SYSTEM on disk\n")

    async def work(editor: Editor) -> None:
        text = f"{HEAD}FROM x\nINCLUDE persona NAME=1\n"
        (problem,) = await editor.open("Modelfile", text)
        assert problem.code == "unknown-argument"
        first = editor._version
        assert await editor.open("persona", "ARG NAME\nSYSTEM ${NAME}\n") == []
        await editor.told_again("Modelfile", first, 0)
        (inside,) = await editor.change("persona", "ARG NAME\nSYSTM ${NAME}\n")
        assert inside.code == "unknown-instruction"
        (outside,) = await editor.told_again("Modelfile", first, 1)
        assert outside.range.start == lsp.Position(2, 0)
        (related,) = outside.related_information or ()
        assert related.location.uri == editor.uri("persona")
        assert related.location.range.start == lsp.Position(1, 0)
        closed = lsp.DidCloseTextDocumentParams(editor.document("persona"))
        editor.client.text_document_did_close(closed)
        saved = lsp.DidSaveTextDocumentParams(editor.document("Modelfile"))
        editor.client.text_document_did_save(saved)
        (problem,) = await editor.told_again("Modelfile", first, 1)

    edit(tmp_path, work)


def test_arguments_of_the_build_count(tmp_path: Path) -> None:
    """--build-arg gives an ARG its value; without one a FROM of it is nothing."""

    async def work(editor: Editor) -> None:
        assert await editor.open("Modelfile", f"{HEAD}ARG BASE\nFROM ${{BASE}}\n") == []

    edit(tmp_path, work, "--build-arg", "BASE=x")


ODD = [
    "",
    "\ufeffFROM x\nPARAMETER tempature 1\n",
    'FROM x\r\nSYSTEM """a\r\nb"""\r\nPARAMETER x 1\r\n',
    "FROM x\u2028SYSTEM y\x0bz\nTEMPLATE {{ .Nope }}\n",
    "# syntax=mbuild/2\nFROM x\n",
    "GGUF\x03\x00\x00\x00",
    f"{HEAD}FROM x AS a\nFROM a AS a\nINCLUDE gone\nSYSTEM @gone\nQUANTIZE q9\n",
    f"{HEAD}FROM ${{\nARG =\nMERGE\nTAKE ( FROM x\nDROP LAYER x\n",
    'FROM x\nSYSTEM """never closed\nPARAMETER stop x\n',
]


def test_whatever_is_opened_the_server_goes_on(tmp_path: Path) -> None:
    """Each file of the corpus and odd texts: all questions, at many places, have an answer."""

    async def work(editor: Editor) -> None:
        client = editor.client
        texts = [path.read_bytes().decode("utf-8", "replace") for path in CORPUS] + ODD
        assert len(texts) > 15
        for number, text in enumerate(texts):
            name = f"f{number}"
            await editor.open(name, text)
            document = editor.document(name)
            options = lsp.FormattingOptions(tab_size=4, insert_spaces=True)
            await client.text_document_formatting_async(
                lsp.DocumentFormattingParams(document, options)
            )
            await client.text_document_document_symbol_async(lsp.DocumentSymbolParams(document))
            whole = lsp.Range(lsp.Position(0, 0), lsp.Position(999, 0))
            await client.text_document_code_action_async(
                lsp.CodeActionParams(document, whole, lsp.CodeActionContext([]))
            )
            for line in range(min(12, text.count("\n") + 1)):
                for column in (0, 3, 9, 14):
                    at = lsp.Position(line, column)
                    await client.text_document_hover_async(lsp.HoverParams(document, at))
                    await client.text_document_definition_async(lsp.DefinitionParams(document, at))
                    await client.text_document_completion_async(lsp.CompletionParams(document, at))

    edit(tmp_path, work)


def test_a_mark_at_the_beginning_moves_nothing(tmp_path: Path) -> None:
    """A byte order mark takes a column of the editor's, and none of the text."""

    async def work(editor: Editor) -> None:
        (problem,) = await editor.open("Modelfile", "\ufeffFORM x\n")
        assert problem.range == lsp.Range(lsp.Position(0, 1), lsp.Position(0, 5))

    edit(tmp_path, work)


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path) -> None:
    """pygls is not asked for by mbuild itself."""
    code = "import sys; sys.modules['pygls'] = sys.modules['lsprotocol'] = None\n"
    code += "from mbuild.cli.main import run; sys.exit(run(['lsp']))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 2
    assert "pip install 'mbuild-models[lsp]'" in done.stderr


def test_editors_may_say_that_they_talk_over_standard_input() -> None:
    """``--stdio`` is what many give to every server."""
    assert "--stdio" in [name for each in lsp_command.params for name in each.opts]


@pytest.mark.parametrize("sign", TRIGGERS)
def test_the_server_says_what_it_answers(sign: str) -> None:
    """Completion is asked for behind these signs."""
    server = make_server({}, list)
    options = server.protocol.fm.feature_options[lsp.TEXT_DOCUMENT_COMPLETION]
    assert sign in options.trigger_characters
