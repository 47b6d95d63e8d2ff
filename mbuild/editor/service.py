"""The open documents, and what is answered about them, in the words of the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from lsprotocol import types as lsp
from pygls.lsp.server import LanguageServer
from pygls.uris import from_fs_path, to_fs_path

from mbuild.core.errors import MbuildError
from mbuild.editor.around import Around
from mbuild.editor.checking import CheckedText, Complaint, QuickFix, check_text, is_error, offers
from mbuild.editor.completing import Kind, Suggestion, complete
from mbuild.editor.explaining import explain, target
from mbuild.editor.formatting import formatted
from mbuild.editor.open_text import OpenText
from mbuild.editor.outline import OutlinePart, outline
from mbuild.editor.text_lines import UNITS, TextLines

PAUSE = 0.15
"""Seconds without a change after which a text is checked."""

_KINDS = {
    Kind.KEYWORD: lsp.CompletionItemKind.Keyword,
    Kind.NAME: lsp.CompletionItemKind.Property,
    Kind.VALUE: lsp.CompletionItemKind.Value,
    Kind.TYPE: lsp.CompletionItemKind.EnumMember,
    Kind.FILE: lsp.CompletionItemKind.File,
    Kind.FOLDER: lsp.CompletionItemKind.Folder,
    Kind.STAGE: lsp.CompletionItemKind.Class,
    Kind.MODEL: lsp.CompletionItemKind.Module,
}


class OpenDocument:
    """A text that is open in the editor, as far as it was looked at."""

    def __init__(self, uri: str, text: str, version: int | None, included: bool) -> None:
        self.uri = uri
        self.version = version
        path = to_fs_path(uri) if uri.startswith("file:") else None
        self.path = Path(path) if path else Path.cwd() / "Modelfile"
        self.is_file = path is not None
        self.source = text
        self.mark = text.startswith("\ufeff")
        self.reading = OpenText(text, included=included)
        self.checked = CheckedText(())
        self.timer: asyncio.TimerHandle | None = None

    def lines(self, encoding: str) -> TextLines:
        """The lines, in the encoding that was agreed on."""
        return TextLines(self.source, UNITS[encoding])

    def shift(self, offset: int) -> int:
        """A character of the reading, which leaves a byte order mark out, in the source."""
        return offset + self.mark


class EditorService:
    """All open documents, and what is answered about them.

    ``arguments`` are those of ``--build-arg``; ``models`` gives the names of stored models.
    """

    def __init__(
        self,
        arguments: Mapping[str, str],
        models: Callable[[], Iterable[str]],
        server: LanguageServer,
    ) -> None:
        self._arguments = arguments
        self._models = models
        self._server = server
        self._open: dict[str, OpenDocument] = {}

    # Documents.

    def opened(self, uri: str, text: str, version: int | None) -> None:
        """A document was opened."""
        self._take(uri, text, version)
        self._check(self._open[uri])

    def changed(self, uri: str, text: str, version: int | None) -> None:
        """A document has another text; it is checked after a pause."""
        document = self._take(uri, text, version)
        loop = asyncio.get_running_loop()
        document.timer = loop.call_later(PAUSE, self._check, document)

    def closed(self, uri: str) -> None:
        """A document was closed: nothing is shown of it."""
        document = self._open.pop(uri, None)
        if document is not None:
            _stop(document)
            self._publish(uri, None, [])

    def saved(self) -> None:
        """Files may have changed: everything is checked again."""
        for document in list(self._open.values()):
            self._check(document)

    def _take(self, uri: str, text: str, version: int | None) -> OpenDocument:
        before = self._open.get(uri)
        document = OpenDocument(uri, text, version, included=False)
        if before is not None:
            _stop(before)
            document.checked = before.checked
        if self._is_included(document):
            document.reading = OpenText(text, included=True)
        self._open[uri] = document
        return document

    def _is_included(self, document: OpenDocument) -> bool:
        others = (each for uri, each in self._open.items() if uri != document.uri)
        own = document.path.resolve()
        return any(own == path.resolve() for each in others for path in each.checked.brought)

    def document(self, uri: str) -> OpenDocument | None:
        """An open document."""
        return self._open.get(uri)

    # What is wrong.

    def _check(self, document: OpenDocument, *, further: bool = True) -> None:
        """Check a document, and those that it brings in or that bring it in."""
        if self._open.get(document.uri) is not document:
            return
        before = document.checked.brought
        document.checked = check_text(
            document.reading, document.path, self._arguments, self._unsaved, self._names
        )
        found = [self._diagnostic(document, each) for each in document.checked.complaints]
        self._publish(document.uri, document.version, found)
        if not further:
            return
        touched = {path.resolve() for path in (*before, *document.checked.brought)}
        own = document.path.resolve()
        for other in list(self._open.values()):
            brought = {path.resolve() for path in other.checked.brought}
            if other is not document and (other.path.resolve() in touched or own in brought):
                included = self._is_included(other)
                if included != other.reading.included:
                    other.reading = OpenText(other.source, included=included)
                self._check(other, further=False)

    def _names(self) -> frozenset[str]:
        try:
            return frozenset(self._models())
        except (MbuildError, OSError):
            return frozenset()

    def _unsaved(self, path: Path) -> bytes | None:
        wanted = path.resolve()
        every = (each for each in self._open.values() if each.is_file)
        found = next((each for each in every if each.path.resolve() == wanted), None)
        return found.reading.data if found else None

    def _publish(self, uri: str, version: int | None, found: list[lsp.Diagnostic]) -> None:
        self._server.text_document_publish_diagnostics(
            lsp.PublishDiagnosticsParams(uri=uri, version=version, diagnostics=found)
        )

    def _diagnostic(self, document: OpenDocument, complaint: Complaint) -> lsp.Diagnostic:
        problem = complaint.problem
        hint = f"\n{problem.suggestion}" if problem.suggestion else ""
        inside = complaint.inside
        related = None
        if inside is not None:
            place = lsp.Position(inside.line, inside.column)
            uri = from_fs_path(str(inside.path)) or document.uri
            where = lsp.Location(uri, lsp.Range(place, place))
            related = [lsp.DiagnosticRelatedInformation(where, problem.message)]
        return lsp.Diagnostic(
            range=self.range(document, complaint.start, complaint.end),
            message=problem.message + hint,
            severity=lsp.DiagnosticSeverity.Error
            if is_error(problem)
            else lsp.DiagnosticSeverity.Warning,
            code=problem.code or None,
            source="mbuild",
            related_information=related,
        )

    # Places.

    @property
    def _encoding(self) -> str:
        agreed = self._server.server_capabilities.position_encoding
        return str(getattr(agreed, "value", agreed) or "utf-16")

    def range(self, document: OpenDocument, start: int, end: int) -> lsp.Range:
        """Two characters as the editor counts."""
        lines = document.lines(self._encoding)
        places = (lines.place(document.shift(each)) for each in (start, end))
        first, last = (lsp.Position(*place) for place in places)
        return lsp.Range(first, last)

    def offset(self, document: OpenDocument, position: lsp.Position) -> int:
        """The character at a place."""
        lines = document.lines(self._encoding)
        return max(0, lines.offset(position.line, position.character) - document.mark)

    def around(self, document: OpenDocument) -> Around:
        """What lies around a document."""
        return Around(document.path.parent, lambda: sorted(self._names()))

    # Answers.

    def complete(self, document: OpenDocument, offset: int) -> list[lsp.CompletionItem]:
        """What can stand at a character."""
        found = complete(document.reading, offset, self.around(document))
        return [self._item(document, n, each, offset) for n, each in enumerate(found)]

    def _item(
        self, document: OpenDocument, number: int, each: Suggestion, offset: int
    ) -> lsp.CompletionItem:
        help_ = lsp.MarkupContent(lsp.MarkupKind.Markdown, each.help) if each.help else None
        return lsp.CompletionItem(
            label=each.text,
            kind=_KINDS[each.kind],
            detail=each.detail or None,
            documentation=help_,
            sort_text=f"{number:05}",
            filter_text=each.text,
            text_edit=lsp.TextEdit(self.range(document, each.start, offset), each.text),
        )

    def hover(self, document: OpenDocument, offset: int) -> lsp.Hover | None:
        """What the word at a character is."""
        found = explain(document.reading, offset)
        if found is None:
            return None
        contents = lsp.MarkupContent(lsp.MarkupKind.Markdown, found.text)
        return lsp.Hover(contents, self.range(document, found.start, found.end))

    def definition(self, document: OpenDocument, offset: int) -> lsp.Location | None:
        """Where it is written what the word at a character names."""
        found = target(document.reading, offset, self.around(document))
        if found is None:
            return None
        if found.path is None:
            return lsp.Location(document.uri, self.range(document, found.start, found.end))
        start = lsp.Position(0, 0)
        uri = from_fs_path(str(found.path.absolute()))
        return lsp.Location(uri, lsp.Range(start, start)) if uri else None

    def symbols(self, document: OpenDocument) -> list[lsp.DocumentSymbol]:
        """The stages, and what they say."""
        return [self._symbol(document, part) for part in outline(document.reading)]

    def _symbol(self, document: OpenDocument, part: OutlinePart) -> lsp.DocumentSymbol:
        return lsp.DocumentSymbol(
            name=part.name,
            detail=part.detail,
            kind=lsp.SymbolKind.Class if part.is_stage else lsp.SymbolKind.Property,
            range=self.range(document, part.start, part.end),
            selection_range=self.range(document, part.start, part.name_end),
            children=[self._symbol(document, each) for each in part.parts] or None,
        )

    def format(self, document: OpenDocument) -> list[lsp.TextEdit] | None:
        """The canonical form; None where the text cannot be read, nothing where it is that."""
        text = formatted(document.reading)
        if text is None or text == document.source:
            return None if text is None else []
        whole = self.range(document, 0, len(document.reading.text))
        return [lsp.TextEdit(whole, text)]

    def actions(self, document: OpenDocument, start: int, end: int) -> list[lsp.CodeAction]:
        """The changes that take problems away."""
        found = offers(document.reading, document.checked.complaints, start, end)
        return [self._action(document, each) for each in found]

    def _action(self, document: OpenDocument, offer: QuickFix) -> lsp.CodeAction:
        where = self.range(document, offer.edit.start, offer.edit.end)
        edits = [lsp.TextEdit(where, offer.edit.text)]
        return lsp.CodeAction(
            title=offer.title,
            kind=lsp.CodeActionKind.QuickFix,
            diagnostics=[self._diagnostic(document, offer.complaint)],
            is_preferred=True,
            edit=lsp.WorkspaceEdit(changes={document.uri: edits}),
        )


def _stop(document: OpenDocument) -> None:
    if document.timer is not None:
        document.timer.cancel()
