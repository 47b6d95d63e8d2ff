"""What oras and RamaLama make of a model in a registry; run with their Python, not mbuild's.

    python registry_tools.py HOST PATH:TAG FOLDER

HOST is reached over http. Prints the manifest's files as JSON: name, digest, and what RamaLama
takes them for. Every check is an assertion.
"""

import hashlib
import json
import pathlib
import sys
import urllib.request

import oras.client
from ramalama.transports.oci import oci_artifact, spec

HOST, NAME, FOLDER = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
PATH, _, TAG = NAME.rpartition(":")


def manifest():
    request = urllib.request.Request(f"http://{HOST}/v2/{PATH}/manifests/{TAG}")
    request.add_header("Accept", "application/vnd.oci.image.manifest.v1+json")
    return json.loads(urllib.request.urlopen(request).read())


def with_oras():
    """Every layer lies under its name, with its bytes."""
    client = oras.client.OrasClient(hostname=HOST, insecure=True)
    files = client.pull(target=f"{HOST}/{NAME}", outdir=str(FOLDER))
    found = {}
    for file in map(pathlib.Path, files):
        digest = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
        found[str(file.relative_to(FOLDER.resolve()))] = digest
    return found


def with_ramalama(value):
    """Its parser takes the manifest, and finds a path for every layer."""
    parsed = spec.Manifest.from_dict(value)
    assert spec.is_cncf_artifact_manifest(value)
    names = {layer.filepath(): layer.digest for layer in parsed.layers}
    assert all(name == spec.normalize_layer_filepath(name) for name in names)
    assert [layer.file_metadata() for layer in parsed.layers] == [None] * len(parsed.layers)
    assert parsed.to_dict()["layers"] == value["layers"]
    return names


value = manifest()
result = {"oras": with_oras()}
if value.get("artifactType") == spec.CNAI_ARTIFACT_TYPE:
    result["ramalama"] = with_ramalama(value)
    assert oci_artifact
print(json.dumps(result))
