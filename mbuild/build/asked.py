"""What a Modelfile and the options beside it ask for together, and the build that this is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.build.fetching import Fetching, PullMode
from mbuild.build.prepare import Build, Notice, read_checks
from mbuild.build.request import BuildRequest, Script, Target
from mbuild.core.digest import Digest
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.build.sources.resolve import LocalContext
    from mbuild.language.recipe import Recipe
    from mbuild.language.stages.values import StageRecipe
    from mbuild.store import Store


class Asked(NamedTuple):
    """A Modelfile that was read, with the targets that its options name.

    ``recipe`` is that of the first target. ``overruled`` tells which options count in place of the
    Modelfile's.
    """

    targets: tuple[Target, ...]
    script: Script
    recipe: Recipe
    warnings: tuple[Notice, ...]
    stages: Mapping[str, StageRecipe] = {}
    overruled: tuple[Notice, ...] = ()

    def build(
        self,
        request: BuildRequest,
        given: Mapping[str, Any],
        context: LocalContext,
        store: Store,
        *,
        use_cache: bool,
    ) -> Build:
        """The build of a request made of this; ``given`` are the values of the options by name.

        Raises :class:`UsageError` for a check that is none.
        """
        mode = PullMode(given["pull"]) if given["pull"] else None
        return Build(
            request,
            self.recipe,
            context,
            use_cache=use_cache,
            warnings=self.warnings,
            fetching=Fetching(mode, keep=not given.get("no_keep_source")),
            stages=self.stages,
            overruled=self.overruled,
            checks=read_checks(given["check"], store),
        )


def script_of(name: str, data: bytes, folder: Path) -> Script:
    """What the log keeps of a Modelfile; its paths start at ``folder``, the asker's own here."""
    directory = ""
    with suppress(OSError):  # it was removed
        directory = str(Path.cwd())
    return Script(name, Digest.of(data), str(folder.absolute()), directory)
