"""The image, made from the binary under test: what is in it, how large it is, and that it is the same each time."""

import gzip
import io
import json
import pathlib
import subprocess
import tarfile

import pytest

from conftest import CARRICK

ROOT = pathlib.Path(__file__).parent.parent.parent


def make(out, *binaries):
    return subprocess.run([ROOT / "packaging/image", out, "localhost/carrick:test", *binaries], capture_output=True, text=True)


class Archive:
    def __init__(self, path):
        with tarfile.open(path) as archive:
            self.files = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}

    def blob(self, descriptor):
        return self.files["blobs/" + descriptor["digest"].replace(":", "/")]

    def read(self, descriptor):
        return json.loads(self.blob(descriptor))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    out = tmp_path_factory.mktemp("image") / "carrick.tar"
    made = make(out, CARRICK)
    assert made.returncode == 0, made.stderr
    return out


@pytest.fixture(scope="module")
def manifest(image):
    archive = Archive(image)
    (entry,) = json.loads(archive.files["index.json"])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == "localhost/carrick:test"
    return archive, archive.read(entry)


def test_it_is_the_same_each_time(image, tmp_path):
    make(tmp_path / "again.tar", CARRICK)
    assert (tmp_path / "again.tar").read_bytes() == image.read_bytes()


def test_it_holds_the_binary_and_no_more_than_that_needs(manifest):
    archive, manifest = manifest
    (packed,) = manifest["layers"]
    layer = gzip.decompress(archive.blob(packed))
    size, packed_size = len(layer), packed["size"]
    print(f"image: {size / 1e6:.1f} MB, {packed_size / 1e6:.1f} MB packed")
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        assert {file.name for file in files if file.isfile()} == {"carrick", "etc/passwd", "etc/ssl/certs/ca-certificates.crt"}
        assert all(file.mtime == 0 and file.uid == 0 for file in files)
    assert size < 30e6 and packed_size < 12e6, "the image's promise; a debug build can't keep it"


def test_it_runs_as_nobody(manifest):
    archive, manifest = manifest
    config = archive.read(manifest["config"])["config"]
    assert config["User"] == "65532:65532" and config["Entrypoint"] == ["/carrick"]
    assert set(config["ExposedPorts"]) == {"8080/tcp", "8443/tcp", "9180/tcp"}
    assert config["Labels"]["org.opencontainers.image.title"] == "carrick"


def test_a_binary_that_needs_a_loader_is_refused(tmp_path):
    made = make(tmp_path / "carrick.tar", "/bin/sh")
    assert made.returncode != 0 and "an empty image has no loader" in made.stderr
