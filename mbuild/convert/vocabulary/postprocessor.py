"""What a tokenizer's post-processor says about bos, eos and separator tokens.

``SpecialVocab`` of gguf-py 0.19 reads the templates of tokenizer.json's
``post_processor`` for it and corrects the settings of tokenizer_config.json
on the way; the same is done here on a copy of the settings.
"""

from __future__ import annotations

from typing import Any

Step = dict[str, Any]


class PostProcessor:
    """The reader: ``settings`` and ``add`` are changed, ``names`` may grow by eot and eom."""

    def __init__(self, settings: dict[str, Any], add: dict[str, bool], names: tuple[str, ...]):
        self.settings, self.add, self.names = settings, add, names
        self.bos, self.cls = settings.get("bos_token"), settings.get("cls_token")
        self.eos, self.sep = settings.get("eos_token"), settings.get("sep_token")

    def read(self, processor: object) -> tuple[str, ...]:
        """Go through the post-processor (or null) and return the kinds of special tokens."""
        if not self.bos and self.cls and self.settings:
            self.settings["bos_token"] = self.bos = self.cls
        if not self.eos and self.sep and self.settings:
            self.settings["eos_token"] = self.eos = self.sep
        if isinstance(processor, dict):
            parts = processor.get("processors", [processor])
            for part in parts if isinstance(parts, list) else ():
                if isinstance(part, dict):
                    self._part(part)
        return self.names

    def _part(self, part: Step) -> None:
        match part.get("type"):
            case "ByteLevel":
                self.add.setdefault("bos", False)
                self.add.setdefault("eos", False)
            case "RobertaProcessing":
                self._roberta(part)
            case "TemplateProcessing":
                first, last = self._single(_steps(part.get("single")))
                self._pair(_steps(part.get("pair")), first, last)

    def _roberta(self, part: Step) -> None:
        self.add.update(bos=True, eos=True, sep=True)
        if not self.cls and self.settings:
            self.cls = self.settings["cls_token"] = _text(part.get("cls"), self.bos)
        if not self.sep and self.settings:
            self.sep = self.settings["sep_token"] = _text(part.get("sep"), self.eos)

    def _single(self, steps: list[Step]) -> tuple[str | None, str | None]:
        """The template of one text: what stands before and behind it."""
        if len(steps) < 2:
            return None, None
        first, last = _special(steps[0]), _special(steps[-1])
        if first:
            self._leading(first)
        if last:
            self._trailing(last)
        return first, last

    def _leading(self, first: str) -> None:
        if not self.settings:
            self.bos = first
        elif first not in (self.bos, self.cls):
            if not self.bos:
                self.settings["bos_token"] = self.bos = first
            if not self.cls:
                self.settings["cls_token"] = self.cls = first
        self.add["bos"] = first in (self.bos, self.cls)

    def _trailing(self, last: str) -> None:
        """A template's last token is the eos; the config's eos then ends a turn or a message."""
        if not self.settings:
            self.eos = last
        elif last != self.eos:
            other = next((name for name in ("eot", "eom") if name not in self.names), None)
            if other is not None:
                self.names = (*self.names, other)
                self.settings[f"{other}_token"] = self.eos
            self.settings["eos_token"] = self.eos = last
        self.add["eos"] = last == self.eos

    def _pair(self, steps: list[Step], first: str | None, last: str | None) -> None:
        """The template of two texts: what stands between them."""
        if not steps:
            return
        start = 1 if first and _special(steps[0]) == first else 0
        stop = -1 if last and _special(steps[-1]) == last else None
        steps = steps[start:stop]
        if not steps or _sequence(steps[0]) != "A" or _sequence(steps[-1]) != "B":
            return
        between = [_special(step) for step in steps[1:-1]]
        if not between:
            return
        separators = (self.sep, self.eos)
        separates = between[0] in separators and bool(between[0]) and not last
        if len(between) == 2 and between[1] and between[1] in separators:
            separates = True
        self.add["sep"] = separates
        if separates and not self.sep and self.settings:
            self.settings["sep_token"] = self.eos


def _steps(value: object) -> list[Step]:
    return [step for step in value if isinstance(step, dict)] if isinstance(value, list) else []


def _special(step: Step) -> str | None:
    return _id(step.get("SpecialToken"))


def _sequence(step: Step) -> str | None:
    return _id(step.get("Sequence"))


def _id(value: object) -> str | None:
    id_ = value.get("id") if isinstance(value, dict) else None
    return id_ if isinstance(id_, str) else None


def _text(value: object, default: object) -> object:
    return value[0] if isinstance(value, list) and value else default
