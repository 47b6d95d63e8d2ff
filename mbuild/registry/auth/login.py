"""A login: what a registry is shown."""

from __future__ import annotations

import base64

from mbuild.core.values import NamedTuple

TOKEN_USER = "<token>"
"""The user in whose place a helper gives an identity token."""


class Login(NamedTuple):
    """What a registry is shown. A test holds that no value of it is ever printed.

    ``identity`` is a refresh token for the OAuth2 form, ``bearer`` a token that is shown to
    the registry as it is.
    """

    user: str = ""
    password: str = ""
    identity: str = ""
    bearer: str = ""

    def __repr__(self) -> str:
        return "Login(...)"

    @property
    def basic(self) -> str:
        """The header of the Basic scheme (RFC 7617), in UTF-8."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
