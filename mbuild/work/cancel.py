"""How running work is told to end: one token, looked at between two pieces of work."""

from __future__ import annotations

from mbuild.core.errors import CancelledError


class Cancel:
    """Tells threads that their work may as well end. Never taken back.

    Whoever stops the work calls :meth:`cancel`, the work calls :meth:`check` now and then.
    A token made with ``outer`` ends when that one does, too.
    """

    __slots__ = ("_cancelled", "_outer", "_why")

    def __init__(self, why: str = "", outer: Cancel | None = None) -> None:
        """``why`` is the message of the :class:`CancelledError` that ends the work."""
        self._why = why
        self._outer = outer
        self._cancelled = False

    def cancel(self) -> None:
        """Let the work end; from any thread, any number of times."""
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether the work may as well end."""
        return self._cancelled or (self._outer is not None and self._outer.cancelled)

    def check(self) -> None:
        """Raise :class:`CancelledError` once the work may as well end."""
        if self._cancelled:
            raise CancelledError(self._why or "the work was stopped")
        if self._outer is not None:
            self._outer.check()
