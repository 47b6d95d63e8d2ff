"""Which values of ``--build-arg`` are in a statement: those that cannot be secrets."""

from __future__ import annotations

import pytest

from mbuild.build.provenance.secrets import withheld

PLAIN = {
    "BASE": "llama3.2",
    "MODEL": "ghcr.io/org/model:v1.2",
    "WEIGHT": "0.75",
    "SYSTEM": "You are Mario from Super Mario Bros, and you answer in one sentence.",
    "TYPE": "q4_K_M",
    "ADAPTER": "adapters/mario-v2/checkpoint-1500",
    "FILE": "sub/some-rather-long-name-of-a-file.safetensors",
    "DIGEST": "sha256:" + "0123456789abcdef" * 4,
    "KEYBOARD": "qwerty",
    "AUTHOR": "Mario",
    "URL": "https://example.com/model.gguf",
    "EMPTY": "",
    "TOKENIZER": "llama-bpe",
}

SECRET = {
    "HF_TOKEN": "x",
    "api_key": "x",
    "PASSWORD": "",
    "DB_PASSWD": "x",
    "SECRET": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "MY_AUTH": "x",
    "A": "hf_abcdefghijklmnop",
    "B": "sk-abcdefghijklmnop",
    "C": "ghp_abcdefghijklmnop",
    "D": "AKIAIOSFODNN7EXAMPLE",
    "E": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.x",
    "F": "-----BEGIN PRIVATE KEY-----",
    "G": "https://user:pass@host/model.gguf",
    "H": "https://host/model.gguf?X-Amz-Signature=abc",
    "I": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "J": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "K": "/home/mario/models/base",
    "L": "~/models/base",
    "M": "../other/base",
    "N": "C:\\\\Users\\\\mario",
    "O": "file:///srv/base",
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_no_secret_is_in_the_statement(name: str) -> None:
    """Names of models, numbers, sentences, digests, paths below the folder."""
    assert not withheld(name, PLAIN[name])


@pytest.mark.parametrize("name", SECRET)
def test_what_may_be_a_secret_is_not(name: str) -> None:
    """By its name, by how it begins, by its letters, and places of somebody's machine."""
    assert withheld(name, SECRET[name])
