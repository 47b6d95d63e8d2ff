"""``mbuild lsp``: the Language Server Protocol over standard input and output, through pygls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lsprotocol import types as lsp
from pygls.lsp.server import LanguageServer

from mbuild import __version__
from mbuild.editor.service import EditorService, OpenDocument

TRIGGERS = (" ", "/", "@", "{", "=", ".")
"""Characters behind which an editor asks what can stand there."""


def make_server(
    arguments: Mapping[str, str], models: Callable[[], Iterable[str]]
) -> LanguageServer:
    """A server that has its features; whoever starts it says how it talks."""
    server = LanguageServer(
        "mbuild", __version__, text_document_sync_kind=lsp.TextDocumentSyncKind.Full
    )
    service = EditorService(arguments, models, server)
    _documents(server, service)
    _answers(server, service)
    return server


def _documents(server: LanguageServer, service: EditorService) -> None:
    """What an editor tells."""

    @server.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
    def did_open(params: lsp.DidOpenTextDocumentParams) -> None:
        document = params.text_document
        service.opened(document.uri, document.text, document.version)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    def did_change(params: lsp.DidChangeTextDocumentParams) -> None:
        text = params.content_changes[-1].text  # the whole of it: the server asks for that
        service.changed(params.text_document.uri, text, params.text_document.version)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
    def did_close(params: lsp.DidCloseTextDocumentParams) -> None:
        service.closed(params.text_document.uri)

    @server.feature(lsp.TEXT_DOCUMENT_DID_SAVE)
    def did_save(params: lsp.DidSaveTextDocumentParams) -> None:
        service.saved()

    @server.feature(lsp.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    def did_change_files(params: lsp.DidChangeWatchedFilesParams) -> None:
        service.saved()


def _answers(server: LanguageServer, service: EditorService) -> None:
    """What an editor asks."""

    def placed(params: Any) -> tuple[OpenDocument, int] | None:
        document = service.document(params.text_document.uri)
        return (document, service.offset(document, params.position)) if document else None

    @server.feature(
        lsp.TEXT_DOCUMENT_COMPLETION, lsp.CompletionOptions(trigger_characters=list(TRIGGERS))
    )
    def completion(params: lsp.CompletionParams) -> Sequence[lsp.CompletionItem]:
        at = placed(params)
        return service.complete(*at) if at else []

    @server.feature(lsp.TEXT_DOCUMENT_HOVER)
    def hover(params: lsp.HoverParams) -> lsp.Hover | None:
        at = placed(params)
        return service.hover(*at) if at else None

    @server.feature(lsp.TEXT_DOCUMENT_DEFINITION)
    def definition(params: lsp.DefinitionParams) -> lsp.Location | None:
        at = placed(params)
        return service.definition(*at) if at else None

    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    def symbols(params: lsp.DocumentSymbolParams) -> Sequence[lsp.DocumentSymbol]:
        document = service.document(params.text_document.uri)
        return service.symbols(document) if document else []

    @server.feature(lsp.TEXT_DOCUMENT_FORMATTING)
    def formatting(params: lsp.DocumentFormattingParams) -> Sequence[lsp.TextEdit] | None:
        document = service.document(params.text_document.uri)
        return service.format(document) if document else None

    @server.feature(
        lsp.TEXT_DOCUMENT_CODE_ACTION,
        lsp.CodeActionOptions(code_action_kinds=[lsp.CodeActionKind.QuickFix]),
    )
    def actions(params: lsp.CodeActionParams) -> Sequence[lsp.CodeAction]:
        document = service.document(params.text_document.uri)
        if document is None:
            return []
        start, end = (
            service.offset(document, each) for each in (params.range.start, params.range.end)
        )
        return service.actions(document, start, end)
