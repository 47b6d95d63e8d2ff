"""An editor of tests: pygls' own client, which starts ``mbuild lsp`` and talks to it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from lsprotocol import types as lsp
from pygls.lsp.client import LanguageClient

SECONDS = 20


class Editor:
    """Open documents by their paths, and what the server said of them."""

    def __init__(self, client: LanguageClient, folder: Path) -> None:
        self.client = client
        self.folder = folder
        self.told: dict[tuple[str, int | None], list[lsp.Diagnostic]] = {}
        self._news = asyncio.Condition()
        self._version = 0
        self._texts: dict[str, str] = {}

        @client.feature(lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        async def publish(params: lsp.PublishDiagnosticsParams) -> None:
            async with self._news:
                self.told[params.uri, params.version] = list(params.diagnostics)
                self._news.notify_all()

    def uri(self, name: str) -> str:
        """A file of the folder."""
        return (self.folder / name).as_uri()

    async def open(self, name: str, text: str) -> list[lsp.Diagnostic]:
        """Open a document; what is wrong with it."""
        self._version += 1
        self._texts[name] = text
        document = lsp.TextDocumentItem(self.uri(name), "modelfile", self._version, text)
        self.client.text_document_did_open(lsp.DidOpenTextDocumentParams(document))
        return await self.told_of(name)

    async def change(self, name: str, text: str) -> list[lsp.Diagnostic]:
        """Give a document another text; what is wrong with it."""
        self._version += 1
        self._texts[name] = text
        document = lsp.VersionedTextDocumentIdentifier(self._version, self.uri(name))
        change = lsp.TextDocumentContentChangeWholeDocument(text)
        self.client.text_document_did_change(lsp.DidChangeTextDocumentParams(document, [change]))
        return await self.told_of(name)

    async def told_of(self, name: str) -> list[lsp.Diagnostic]:
        """What the server says of the newest version of a document, once it says it."""
        key = (self.uri(name), self._version)
        async with self._news:
            await asyncio.wait_for(self._news.wait_for(lambda: key in self.told), SECONDS)
        return self.told[key]

    async def told_again(self, name: str, version: int, count: int) -> list[lsp.Diagnostic]:
        """What is said of a version once it is so many problems."""
        key = (self.uri(name), version)
        async with self._news:
            await asyncio.wait_for(
                self._news.wait_for(lambda: len(self.told.get(key, [None] * 99)) == count), SECONDS
            )
        return self.told[key]

    def document(self, name: str) -> lsp.TextDocumentIdentifier:
        """How a request names a document."""
        return lsp.TextDocumentIdentifier(self.uri(name))

    def place(self, name: str, word: str) -> lsp.Position:
        """The end of a word in a document, in units of UTF-16."""
        before = self._texts[name].partition(word)[0] + word
        line = before.rpartition("\n")[2]
        return lsp.Position(before.count("\n"), len(line.encode("utf-16-le")) // 2)

    def edited(self, name: str, edits: Sequence[lsp.TextEdit]) -> str:
        """A document's text with changes made."""
        text = self._texts[name]
        lines = text.splitlines(keepends=True)
        starts = [sum(map(len, lines[:number])) for number in range(len(lines) + 1)]
        for edit in edits:
            start, end = (
                starts[place.line] + place.character for place in (edit.range.start, edit.range.end)
            )
            text = text[:start] + edit.new_text + text[end:]
        return text


@asynccontextmanager
async def editing(folder: Path, *arguments: str) -> AsyncIterator[Editor]:
    """An editor with the server started; it has to end well."""
    client = LanguageClient("tests", "1")
    environment = {**os.environ, "OLLAMA_MODELS": str(folder / "store")}
    command = [sys.executable, "-m", "mbuild", "lsp", *arguments]
    await client.start_io(*command, cwd=folder, env=environment)
    process = client._server
    assert process is not None
    editor = Editor(client, folder)
    asked = lsp.InitializeParams(capabilities=lsp.ClientCapabilities(), root_uri=folder.as_uri())
    await asyncio.wait_for(client.initialize_async(asked), SECONDS)
    client.initialized(lsp.InitializedParams())
    try:
        yield editor
        await asyncio.wait_for(client.shutdown_async(None), SECONDS)
        client.exit(None)
        assert await asyncio.wait_for(process.wait(), SECONDS) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await client.stop()
