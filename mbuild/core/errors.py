"""Every error that mbuild raises on purpose, in one tree.

::

    MbuildError
    ├── UsageError            the command line or a request is wrong
    ├── ModelfileError        the Modelfile is wrong; carries every problem found
    ├── SourceError           a file that FROM, ADAPTER or DRAFT names cannot be used
    │   ├── MissingFileError  ... because it is not there
    │   ├── FormatError       ... because its bytes are not what they should be
    │   │   └── LackingError  ... because its encoders cannot be made of what is there
    │   └── UnsupportedError  ... because mbuild has no support for it
    ├── NameNotFoundError     no model of that name in the store
    ├── FailedCheckError      the model was made, and a CHECK of it does not hold
    ├── StoreError            the store cannot be read or written
    │   └── DamagedError      ... because its content is not what its name says
    ├── WorkerError           whoever should compute for a build cannot, or must not
    ├── BusyError             somebody else holds the store for too long
    ├── ServingError          a server cannot listen, or there is none to ask
    ├── RegistryError         a registry refuses, fails, or sends what cannot be right
    │   ├── AbsentError       ... because it has no such model
    │   ├── DeniedError       ... because of who asks: no login, a wrong one, no right
    │   ├── ForbiddenHostError  ... because nobody may ask that host from here
    │   └── UnreachableError  ... because no answer came, or not all of it
    └── CancelledError        the build was stopped on purpose

A message says what is wrong and quotes the value; ``hint`` says what to do
about it. Errors are raised where they are known and rendered once per front
end (``mbuild.cli``, ``mbuild.server``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class MbuildError(Exception):
    """The root of the tree: a one-line message and, where there is one, a remedy."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        # Where in a Modelfile it arose, for those who resolve instructions:
        # a mbuild.language.instructions.Problem.
        self.problem: Any = None

    def at(self, problem: Any) -> MbuildError:
        """The same error with its place, a :class:`mbuild.language.instructions.Problem`."""
        # Not copy.copy: how that copies exceptions is what any library has told copyreg.
        placed = type(self).__new__(type(self))
        placed.args = self.args
        placed.__dict__.update(self.__dict__)
        placed.problem = problem
        return placed


class UsageError(MbuildError):
    """The command line, an environment variable or a request is wrong."""


class ModelfileError(MbuildError):
    """A Modelfile that cannot be built; ``problems`` holds all that is wrong with it.

    Each problem is a :class:`mbuild.language.instructions.Problem`; the error
    tree sits below that module and so does not name the type.
    """

    def __init__(self, problems: Sequence[Any]) -> None:
        super().__init__("; ".join(str(p) for p in problems))
        self.problems = tuple(problems)


class SourceError(MbuildError):
    """A file or directory that an instruction names cannot be used."""


class MissingFileError(SourceError):
    """A path that leads nowhere."""


class FormatError(SourceError):
    """A file whose bytes are not what its format demands: truncated, hostile or foreign."""


class LackingError(FormatError):
    """A checkpoint that does not say what converting its encoders needs."""


class UnsupportedError(SourceError):
    """A well-formed input that mbuild cannot build from."""


class NameNotFoundError(MbuildError):
    """No model of that name is in the store."""


class FailedCheckError(MbuildError):
    """A CHECK does not hold of the model that was made; nothing is named."""


class StoreError(MbuildError):
    """The store cannot be read or written: full disk, no permission, read-only."""


class DamagedError(StoreError):
    """Something in the store does not have the content that its name promises."""


class WorkerError(MbuildError):
    """A worker, or whoever starts some, cannot do its part of a build."""


class BusyError(MbuildError):
    """Somebody else holds the store for longer than the caller wants to wait."""


class ServingError(MbuildError):
    """A server cannot listen where it should, or there is none that could be asked."""


class RegistryError(MbuildError):
    """A registry refuses what it is asked, fails, or sends what cannot be right."""


class AbsentError(RegistryError):
    """The registry has no such model, or does not show it to whoever asks."""


class DeniedError(RegistryError):
    """The registry wants a login, a right one, or one that may do what was asked."""


class ForbiddenHostError(RegistryError):
    """A host that must not be asked from here: not allowed, or inside this network."""


class UnreachableError(RegistryError):
    """No answer came, or not all of it.

    Where ``again`` holds, another attempt may go better, after ``wait`` seconds.
    """

    def __init__(
        self, message: str, *, hint: str = "", wait: float = 0.0, again: bool = True
    ) -> None:
        super().__init__(message, hint=hint)
        self.wait = wait
        self.again = again


class CancelledError(MbuildError):
    """The build was stopped on purpose (Ctrl-C, a client that went away)."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: it ends the program, also where Ctrl-C stops an answer and no more."""
