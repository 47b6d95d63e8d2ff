"""What is said of a model that is not there: what somebody can have meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbuild.core.errors import StoreError
from mbuild.core.names import ModelName
from mbuild.store import Store
from mbuild.store.absent import about_absent


def test_a_near_name_is_asked_for(tiny_store: Store) -> None:
    """Of a word that is near no name nothing is said."""
    assert about_absent(tiny_store, "tinny").startswith("did you mean tiny")
    assert about_absent(tiny_store, "zebra-crossing") == ""


@pytest.mark.parametrize("digits", [4, 12, 64])
@pytest.mark.parametrize("form", ["{}", "{}:latest", "sha256:{}"])
def test_an_id_is_no_name_and_leads_to_it(tiny_store: Store, digits: int, form: str) -> None:
    """In whole or in part, and as the parser completes it; all names with that id are told."""
    name = ModelName.parse("tiny")
    data = tiny_store.manifests.read_bytes(name)
    assert data is not None
    tiny_store.manifests.write(ModelName.parse("copy"), data)
    identity = tiny_store.manifests.read(name).id.hex[:digits]
    told = about_absent(tiny_store, form.format(identity))
    assert told == f"{identity} is the id of copy:latest and tiny:latest: give the name"


def test_three_digits_are_too_few_for_an_id(tiny_store: Store) -> None:
    """They would be many a model's."""
    identity = tiny_store.manifests.read(ModelName.parse("tiny")).id.hex
    assert "is the id of" not in about_absent(tiny_store, identity[:3])


def test_a_damaged_model_is_still_suggested(tiny_store: Store) -> None:
    """Its name is there; its id is not known."""
    tiny_store.manifests.write(ModelName.parse("broken"), b"{")
    assert about_absent(tiny_store, "brokn").startswith("did you mean broken")
    assert about_absent(tiny_store, "abcd1234abcd") == ""


def test_an_empty_store_says_that_it_is_empty(tmp_path: Path) -> None:
    """One that is not there yet, too; a link to nowhere is an error."""
    assert "is not there yet" in about_absent(Store(tmp_path / "absent"), "tiny")
    (tmp_path / "empty").mkdir()
    assert "has no models yet" in about_absent(Store(tmp_path / "empty"), "tiny")
    (tmp_path / "link").symlink_to(tmp_path / "drive")
    with pytest.raises(StoreError, match="drive"):
        about_absent(Store(tmp_path / "link"), "tiny")
