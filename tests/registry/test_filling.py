"""Large reads of a connection fill what they are given, and end with their time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from mbuild.registry.client.filling import CAN_FILL, LARGE, FillingSocket

pytestmark = pytest.mark.skipif(not CAN_FILL, reason="this system fills no room in one call")

Pair = tuple[FillingSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A connection that waits 0.2 seconds for bytes of a body, and its peer."""
    own, peer = socket.socketpair()
    own.settimeout(5)
    filling = FillingSocket.of(own, 0.2)
    yield filling, peer
    filling.close()
    peer.close()


def send_later(peer: socket.socket, pieces: list[bytes], pause: float = 0.02) -> threading.Thread:
    """Send one piece after the other, with time between them."""

    def send() -> None:
        for piece in pieces:
            time.sleep(pause)
            peer.sendall(piece)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_a_large_read_takes_all(pair: Pair) -> None:
    """Also what comes in several pieces; the limit for the rest stays as it was."""
    filling, peer = pair
    pieces = [bytes([number]) * (LARGE // 4) for number in range(4)]
    thread, room = send_later(peer, pieces), bytearray(LARGE)
    assert filling.recv_into(memoryview(room)) == LARGE
    assert room == b"".join(pieces)
    assert filling.gettimeout() == 5
    thread.join()


def test_a_small_read_takes_what_is_there(pair: Pair) -> None:
    """A header is not as long as the room for it."""
    filling, peer = pair
    peer.sendall(b"head")
    assert filling.recv_into(bytearray(LARGE - 1)) == 4
    peer.sendall(b"head")
    assert filling.recv_into(bytearray(LARGE), 8) == 4


def test_silence_ends_a_large_read(pair: Pair) -> None:
    """With what came before it, then with an error."""
    filling, peer = pair
    peer.sendall(b"some")
    room = bytearray(LARGE)
    assert filling.recv_into(room) == 4
    with pytest.raises(TimeoutError):
        filling.recv_into(room)
    assert filling.gettimeout() == 5


def test_the_end_of_a_connection_ends_a_large_read(pair: Pair) -> None:
    """With less than was wanted; so does whoever cuts it from another thread."""
    filling, peer = pair
    thread = send_later(peer, [b"some"])
    thread.join()
    peer.shutdown(socket.SHUT_WR)
    room = bytearray(LARGE)
    assert filling.recv_into(room) == 4
    assert filling.recv_into(room) == 0


def test_a_large_read_can_be_cut() -> None:
    """From another thread, long before its time is over."""
    own, peer = socket.socketpair()
    with FillingSocket.of(own, 60) as filling, peer:
        timer = threading.Timer(0.1, filling.shutdown, [socket.SHUT_RDWR])
        timer.start()
        before = time.monotonic()
        assert filling.recv_into(bytearray(LARGE)) == 0
        assert time.monotonic() - before < 30
        timer.join()
