"""Answers of a model as ``mbuild run`` shows them, and what is to be said of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mbuild.cli.common import harmless

if TYPE_CHECKING:
    from mbuild.cli.talking import Talker
    from mbuild.runtime.asked import Ask, Finished, Piece


class Answers:
    """Shows the answers of one command.

    Of the last one: ``is_broken`` says that it ended within its JSON, ``was_interrupted`` that
    Ctrl-C ended it.
    """

    def __init__(self, talker: Talker, options: dict[str, Any]) -> None:
        """``options``: those of the command."""
        self._talker = talker
        self._options = options
        self._told_of_cut = False
        self.is_broken = self.was_interrupted = False

    def show(self, ask: Ask) -> str:
        """Show an answer as it comes; its text."""
        texts: list[str] = []
        terminal = sys.stdout.isatty()
        thinking = False

        def show(piece: Piece) -> None:
            nonlocal thinking
            if piece.thinking and not self._options["hide_thinking"]:
                if not thinking:
                    click.echo("Thinking...", err=True)
                thinking = True
                click.echo(harmless(piece.thinking), nl=False, err=True)
            if piece.content:
                if thinking:
                    click.echo("\n...done thinking.\n", err=True)
                thinking = False
                texts.append(piece.content)
                # click.echo would take escape sequences out of what goes into a file.
                sys.stdout.write(harmless(piece.content) if terminal else piece.content)
                sys.stdout.flush()

        finished = self._talker.ask(ask, show)
        text = "".join(texts)
        if not text.endswith("\n"):
            click.echo()
        self.was_interrupted = finished is None
        if finished is not None:
            self._tell(finished)
        return text

    def _tell(self, finished: Finished) -> None:
        """Say what the user may not expect of the answer, and the statistics if wanted."""
        from mbuild.runtime.asked import EndReason

        if finished.given_count and not self._told_of_cut:
            self._told_of_cut = True  # of a long talk the next prompts are cut, too
            click.echo(
                f"warning: the model got {finished.prompt_count:,} of the prompt's"
                f" {finished.given_count:,} tokens; PARAMETER num_ctx in its Modelfile makes room"
                " for more, up to the length that it was trained for",
                err=True,
            )
        cut = finished.reason is EndReason.LENGTH
        self.is_broken = cut and self._options["shape"] is not None
        if self.is_broken:
            click.echo(
                "warning: the answer was cut short, and may be no whole JSON; a larger PARAMETER"
                " num_predict or num_ctx in the Modelfile makes room for more",
                err=True,
            )
        if self._options["verbose"]:
            click.echo("\n".join(_statistics(finished)), err=True)


def _statistics(finished: Finished) -> list[str]:
    lines = [
        f"total duration:       {finished.total_ns / 1e9:.3f} s",
        f"load duration:        {finished.load_ns / 1e9:.3f} s",
        f"prompt eval count:    {finished.prompt_count} tokens",
        f"prompt eval duration: {finished.prompt_ns / 1e9:.3f} s",
        f"eval count:           {finished.answer_count} tokens",
        f"eval duration:        {finished.answer_ns / 1e9:.3f} s",
    ]
    # The first token comes out of the prompt's time: of one alone there is no rate.
    if finished.answer_count > 1 and finished.answer_ns:
        rate = finished.answer_count / (finished.answer_ns / 1e9)
        lines.append(f"eval rate:            {rate:.2f} tokens/s")
    return lines
