import errno
import os
import struct
import subprocess

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from p2p.blobs import BlobStore, Manifest
from p2p.errors import BlobCorrupt, BlobError, BlobTooLarge, DiskFull, ProtocolViolation
from p2p.manifest import MAX_PIECE_BYTES, MIN_PIECE_BYTES, full_bitmap, manifest_of

PIECE = MIN_PIECE_BYTES


def content(pieces: float, seed: int = 0) -> bytes:
    return blake3(seed.to_bytes(4, "little")).digest(int(pieces * PIECE))


def file_with(tmp_path, data: bytes, name: str = "source"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path / "store")


def flip(path, offset: int) -> None:
    with path.open("r+b") as file:
        byte = file.seek(offset) is not None and file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def names(store) -> list[str]:
    return sorted(str(p.relative_to(store.directory)) for p in store.directory.rglob("*") if p.is_file())


def test_the_blob_id_is_as_documented(tmp_path, store):
    data = content(2.5)
    hashes = b"".join(blake3(data[i : i + PIECE]).digest() for i in range(0, len(data), PIECE))
    expected = blake3(b"covenantd blob 1\0" + struct.pack("<QI", len(data), PIECE) + hashes).hexdigest()
    assert store.adopt(file_with(tmp_path, data), PIECE) == expected


def test_golden_blob_ids(tmp_path, store):
    assert Manifest(0, PIECE, b"").blob_id == "c431735785c535a6aeaeddec944ee0422cd92308b6fd65a084bb4f618f89b184"
    assert (
        store.adopt(file_with(tmp_path, b"covenant" * 1000), PIECE)
        == "02adcabb21b66438c8707b3fe3f3a88f29f6378686d0001dc037d471bfc7b300"
    )


def test_adopt_moves_a_file_in(tmp_path, store):
    source = file_with(tmp_path, content(3.2))
    blob_id = store.adopt(source, PIECE)
    assert not source.exists()
    assert store.path(blob_id).read_bytes() == content(3.2)
    assert [store.read_piece(blob_id, i) for i in range(4)][3] == content(3.2)[3 * PIECE :]
    assert store.bitmap(blob_id) == b"\x0f"
    assert names(store) == [f"complete/{blob_id}", f"manifests/{blob_id}"]


def test_adopt_can_keep_the_original_and_twice_is_once(tmp_path, store):
    source = file_with(tmp_path, content(2))
    first = store.adopt(source, PIECE, keep=True)
    assert source.read_bytes() == content(2)
    assert store.adopt(source, PIECE) == first
    assert not source.exists()
    assert store.path(first).read_bytes() == content(2)


def test_adopt_copies_where_it_cannot_link(tmp_path, store, monkeypatch):
    real = os.rename

    def refuse(source, target):
        if source.name != "source":
            return real(source, target)
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    for keep in (True, False):
        source = file_with(tmp_path, content(2, seed=keep))
        blob_id = store.adopt(source, PIECE, keep)
        assert store.path(blob_id).read_bytes() == content(2, seed=keep)
        assert source.exists() == keep


def test_a_store_opened_again_knows_its_blobs(tmp_path, store):
    blob_id = store.adopt(file_with(tmp_path, content(3)), PIECE)
    (store.directory / "temporary" / "rest").touch()
    again = BlobStore(store.directory)
    assert again.path(blob_id) and again.manifest(blob_id) == store.manifest(blob_id)
    assert again.read_piece(blob_id, 2) == content(3)[2 * PIECE :]
    assert not list((store.directory / "temporary").iterdir())


def test_an_empty_blob(tmp_path, store):
    blob_id = store.adopt(file_with(tmp_path, b""), PIECE)
    assert store.path(blob_id).read_bytes() == b""
    other = BlobStore(tmp_path / "other")
    assert other.complete(other.partial(store.manifest(blob_id))).read_bytes() == b""


@pytest.mark.parametrize("piece_bytes", [0, 1, MIN_PIECE_BYTES - 1, MAX_PIECE_BYTES + 1])
def test_piece_sizes_are_bounded(tmp_path, store, piece_bytes):
    with pytest.raises(ValueError, match="pieces of"):
        store.adopt(file_with(tmp_path, b"x"), piece_bytes)


@pytest.mark.parametrize("blob_id", ["", "../../etc/passwd", "AB" * 32, "ab" * 31, "ab" * 32 + "\n"])
def test_what_is_no_blob_id_never_reaches_the_disk(store, blob_id):
    for use in (store.path, store.manifest, store.bitmap, store.delete, store.verify):
        with pytest.raises(ValueError, match="not a blob id"):
            use(blob_id)


def test_a_flipped_bit_on_disk_is_never_served_and_can_be_repaired(tmp_path, store):
    blob_id = store.adopt(file_with(tmp_path, content(4)), PIECE)
    flip(store.path(blob_id), 2 * PIECE + 17)
    assert store.read_piece(blob_id, 1) == content(4)[PIECE : 2 * PIECE]
    with pytest.raises(BlobCorrupt):
        store.read_piece(blob_id, 2)
    assert store.path(blob_id) is None
    partial = store.partial(store.manifest(blob_id))
    assert partial.missing() == [2]
    partial.write_piece(2, content(4)[2 * PIECE : 3 * PIECE])
    assert store.complete(partial).read_bytes() == content(4)


def test_repair_does_not_write_through_a_link(tmp_path, store):
    source = file_with(tmp_path, content(2))
    blob_id = store.adopt(source, PIECE, keep=True)
    source.open("r+b").write(b"their own change")
    theirs = source.read_bytes()
    with pytest.raises(BlobCorrupt):
        store.read_piece(blob_id, 0)
    partial = store.partial(store.manifest(blob_id))
    partial.write_piece(0, content(2)[:PIECE])
    assert store.complete(partial).read_bytes() == content(2)
    assert source.read_bytes() == theirs


def test_verify_finds_a_truncated_and_a_changed_blob(tmp_path, store):
    for seed, damage in enumerate([lambda p: None, lambda p: os.truncate(p, 100), lambda p: flip(p, 5000)]):
        blob_id = store.adopt(file_with(tmp_path, content(2, seed)), PIECE)
        damage(store.path(blob_id))
        assert store.verify(blob_id) == (seed == 0)
        assert (store.path(blob_id) is not None) == (seed == 0)


def test_a_broken_manifest_is_as_good_as_none(tmp_path, store):
    blob_id = store.adopt(file_with(tmp_path, content(2)), PIECE)
    manifest = store.manifest(blob_id)
    for data in (b"", b"x", manifest.to_bytes()[:-1], manifest.to_bytes()[:-1] + b"?"):
        (store.directory / "manifests" / blob_id).write_bytes(data)
        again = BlobStore(store.directory)
        assert again.manifest(blob_id) is None and again.path(blob_id) is None and again.bitmap(blob_id) is None
    assert again.adopt(file_with(tmp_path, content(2)), PIECE) == blob_id
    assert again.path(blob_id)


def test_a_partial_takes_only_right_pieces_in_any_order(tmp_path, store):
    data = content(9.5)
    manifest = store.measure(file_with(tmp_path, data), PIECE)
    partial = store.partial(manifest)
    assert store.partial(manifest) is partial
    for index in (9, 0, 4):
        with pytest.raises(BlobCorrupt):
            partial.write_piece(index, data[:PIECE][::-1])
        partial.write_piece(index, data[index * PIECE : (index + 1) * PIECE])
    assert partial.bitmap() == store.bitmap(manifest.blob_id) == bytes([0b00010001, 0b10])
    assert store.read_piece(manifest.blob_id, 4) == data[4 * PIECE : 5 * PIECE]
    with pytest.raises(BlobCorrupt):
        store.read_piece(manifest.blob_id, 5)
    with pytest.raises(IndexError):
        store.read_piece(manifest.blob_id, 10)
    with pytest.raises(BlobError, match="lacks 7 pieces"):
        store.complete(partial)
    assert store.path(manifest.blob_id) is None


def test_a_partial_goes_on_after_a_restart_with_what_is_right(tmp_path, store):
    data = content(5)
    manifest = store.measure(file_with(tmp_path, data), PIECE)
    partial = store.partial(manifest)
    for index in (0, 1, 3):
        partial.write_piece(index, data[index * PIECE : (index + 1) * PIECE])
    flip(partial.path, PIECE + 1)  # torn by the crash
    again = BlobStore(store.directory)
    assert again.bitmap(manifest.blob_id) is None  # not open yet
    assert again.partial(again.manifest(manifest.blob_id)).missing() == [1, 2, 4]


def test_a_piece_of_a_partial_that_goes_bad_is_forgotten(tmp_path, store):
    data = content(2)
    partial = store.partial(store.measure(file_with(tmp_path, data), PIECE))
    partial.write_piece(1, data[PIECE:])
    flip(partial.path, PIECE)
    with pytest.raises(BlobCorrupt, match="changed on disk"):
        partial.read_piece(1)
    assert partial.missing() == [0, 1]


def test_seeding_leaves_only_the_pieces_that_differ(tmp_path, store):
    old, new = bytearray(content(8)), bytearray(content(8.3))
    new[3 * PIECE] ^= 1
    manifest = store.measure(file_with(tmp_path, bytes(new)), PIECE)
    similar = file_with(tmp_path, bytes(old), "similar")
    assert store.seed_partial(manifest, similar).missing() == [3, 8]
    assert similar.read_bytes() == old


def test_adopting_a_blob_that_is_being_fetched(tmp_path, store):
    data = content(2)
    partial = store.partial(store.measure(file_with(tmp_path, data), PIECE))
    for index in (0, 1):
        partial.write_piece(index, data[index * PIECE : (index + 1) * PIECE])
    blob_id = store.adopt(file_with(tmp_path, data), PIECE)
    flip(partial.path, 0)
    store.complete(partial)
    assert store.path(blob_id).read_bytes() == data
    assert names(store) == [f"complete/{blob_id}", f"manifests/{blob_id}"]


def test_deleting_under_a_writer_is_an_error_for_it_alone(tmp_path, store):
    data = content(2)
    partial = store.partial(store.measure(file_with(tmp_path, data), PIECE))
    store.delete(partial.manifest.blob_id)
    with pytest.raises(BlobError):
        partial.write_piece(0, data[:PIECE])
    assert names(store) == []


def test_retain_deletes_the_rest_but_not_what_is_being_filled(tmp_path, store):
    kept, gone = (store.adopt(file_with(tmp_path, content(2, s)), PIECE) for s in (1, 2))
    filling = store.partial(store.measure(file_with(tmp_path, content(2, 3)), PIECE)).manifest.blob_id
    left = store.partial(store.measure(file_with(tmp_path, content(2, 4)), PIECE))
    store.close(left)
    assert store.total_bytes >= 4 * PIECE
    store.retain([kept])
    assert store.path(kept) and store.path(gone) is None
    assert {name.partition("/")[2] for name in names(store)} == {kept, filling}


def test_a_full_disk_loses_nothing_and_says_what_to_do(tmp_path, store, monkeypatch):
    data = content(3)
    partial = store.partial(store.measure(file_with(tmp_path, data), PIECE))
    partial.write_piece(0, data[:PIECE])
    real = os.pwrite

    def half_then_full(descriptor, view, offset):
        if len(view) < PIECE:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, view[: PIECE // 2], offset)

    monkeypatch.setattr(os, "pwrite", half_then_full)
    with pytest.raises(DiskFull, match="free space") as caught:
        partial.write_piece(1, data[PIECE : 2 * PIECE])
    assert str(partial.path) in str(caught.value)
    assert partial.missing() == [1, 2]
    monkeypatch.setattr(os, "pwrite", real)
    partial.write_piece(1, data[PIECE : 2 * PIECE])
    assert BlobStore(store.directory).partial(partial.manifest).missing() == [2]


@pytest.mark.parametrize("keep", [True, False])
def test_a_full_disk_at_any_step_of_adopting_keeps_the_source(tmp_path, store, monkeypatch, keep):
    for step in range(4):
        source, calls = file_with(tmp_path, content(2)), [0]

        def fail_at(step=step, calls=calls):
            calls[0] += 1
            if calls[0] == step + 1:
                raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            real = os.fsync
            patch.setattr(os, "fsync", lambda descriptor, real=real: fail_at() or real(descriptor))
            with pytest.raises(DiskFull):
                store.adopt(source, PIECE, keep)
        held = source if source.exists() else next((store.directory / "complete").iterdir())
        assert held.read_bytes() == content(2)
        assert not list((store.directory / "temporary").iterdir())
        store.retain([])


@pytest.fixture
def tiny_disk(tmp_path):
    mount = tmp_path / "tiny"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no right to mount a tmpfs")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)  # even under a test that failed


def test_a_disk_that_is_really_full(tmp_path, tiny_disk):
    store = BlobStore(tiny_disk / "store")
    source = file_with(tmp_path, content(40))
    with pytest.raises(DiskFull, match="tiny"):
        store.adopt(source, PIECE)
    assert source.read_bytes() == content(40)
    assert [name for name in names(store) if not name.startswith("manifests")] == []
    partial = store.partial(store.measure(source, PIECE))
    with pytest.raises(DiskFull):
        for index in range(40):
            partial.write_piece(index, content(40)[index * PIECE : (index + 1) * PIECE])
    held = [index for index in range(40) if partial.has(index)]
    assert 0 < len(held) < 40
    assert b"".join(partial.read_piece(i) for i in held) == content(40)[: len(held) * PIECE]
    store.delete(partial.manifest.blob_id)


manifests = st.integers(0, 5 * PIECE).map(lambda size: Manifest(size, PIECE, b"h" * (32 * -(-size // PIECE))))


@given(manifests)
def test_manifests_round_trip(manifest):
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert Manifest.from_message(manifest.as_message(), manifest.blob_id, manifest.size) == manifest


@given(manifests, st.sampled_from(["size", "piece_bytes", "hashes"]), st.integers(-(2**63), 2**63) | st.binary())
def test_a_changed_manifest_is_a_violation(manifest, name, value):
    message = {**manifest.as_message(), name: value}
    if message == manifest.as_message():
        return
    with pytest.raises(ProtocolViolation):
        Manifest.from_message(message, manifest.blob_id, 1 << 40)


def test_a_blob_over_the_cap_is_nobodys_lie():
    manifest = Manifest(PIECE, PIECE, b"h" * 32)
    with pytest.raises(BlobTooLarge):
        Manifest.from_message(manifest.as_message(), manifest.blob_id, PIECE - 1)


@given(st.binary(max_size=300))
def test_byte_soup_is_no_manifest(soup):
    try:
        manifest = Manifest.from_bytes(soup)
    except ValueError:
        return
    assert manifest.to_bytes() == soup


@given(st.integers(0, 100))
def test_full_bitmap(pieces):
    bitmap = full_bitmap(pieces)
    assert len(bitmap) == -(-pieces // 8)
    assert int.from_bytes(bitmap, "little").bit_count() == int.from_bytes(bitmap, "little").bit_length() == pieces


def test_a_sparse_partial_opens_without_reading_its_holes(tmp_path):
    manifest = Manifest(1 << 40, 16 << 20, b"h" * (32 << 16))
    store = BlobStore(tmp_path / "store")
    partial = store.partial(manifest)
    store.close(partial)
    assert len(store.partial(manifest).missing()) == 1 << 16
    assert store.total_bytes < 1 << 20


def test_measuring_an_open_file(tmp_path):
    with file_with(tmp_path, content(1.5)).open("rb") as file:
        assert manifest_of(file.fileno(), PIECE).pieces == 2
