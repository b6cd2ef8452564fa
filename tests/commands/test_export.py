"""What counts as an earlier export of the same candidate."""

from __future__ import annotations

import json

import pytest

from commands.export import is_export_of
from engines.manifest import MANIFEST

HASHES = {"model": "m", "bank": "b"}


def write(folder, text):
    (folder / MANIFEST).write_text(text)
    return is_export_of(folder, "digest", HASHES)


def test_an_export_is_known_by_its_candidate_and_what_it_was_made_of(tmp_path):
    manifest = {"digest": "digest", "run": {"hashes": HASHES}, "files": {}}
    assert write(tmp_path, json.dumps(manifest))
    assert not write(tmp_path, json.dumps({**manifest, "digest": "another"}))
    assert not write(tmp_path, json.dumps({**manifest, "run": {"hashes": {}}}))
    assert not write(tmp_path, json.dumps({**manifest, "run": None}))


@pytest.mark.parametrize("text", ["", '{"digest": "dig', "[]", '{"digest": "digest"}'])
def test_a_torn_manifest_is_no_export(tmp_path, text):
    assert not write(tmp_path, text)
    assert not is_export_of(tmp_path / "absent", "digest", HASHES)
