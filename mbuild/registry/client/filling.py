"""A connection whose large reads fill what they are given, in one call of the system.

Python asks of a connection with a time limit twice for every piece that has arrived: whether there
is one, and for it. Near a fast peer these are thousands of calls for each GB, and after each of
them the threads of a transfer contend for the interpreter.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

LARGE = 32 << 10
"""Bytes of a read that is one of a body: those of headers want what is there, which is less."""

CAN_FILL = os.name == "posix" and hasattr(socket, "MSG_WAITALL")
"""Whether this system has what :class:`FillingSocket` needs."""


class FillingSocket(socket.socket):
    """A connected socket; who reads much at once gets all of it, or what came before the limit.

    Only for who asks for no more than is to come: the end of a body is not waited for otherwise.
    """

    @classmethod
    def of(cls, sock: socket.socket, seconds: float) -> FillingSocket:
        """The same connection; a large read waits for so long at most."""
        limit = sock.gettimeout()
        time = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))  # struct timeval
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, time)
        found = cls(fileno=sock.detach())
        found.settimeout(limit)
        return found

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """As that of any socket; raises :class:`TimeoutError` if nothing comes."""
        if (nbytes or memoryview(buffer).nbytes) < LARGE:
            return super().recv_into(buffer, nbytes, flags)
        limit = self.gettimeout()
        self.settimeout(None)
        try:
            return super().recv_into(buffer, nbytes, flags | socket.MSG_WAITALL)
        except BlockingIOError:
            raise TimeoutError("timed out") from None
        finally:
            self.settimeout(limit)
