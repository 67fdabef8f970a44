"""Files readers hand in: small, kept under their hash, gone with the server."""

import gc

import pytest

from app.server.uploads import LARGEST, Uploads


def test_a_file_is_kept_under_its_hash() -> None:
    uploads = Uploads()
    name = uploads.keep(b"abc", ".bin")
    assert name == "ba7816bf8f01cfea414140de.bin"  # sha256 of abc
    assert uploads.keep(b"abc", ".bin") == name
    assert uploads.path(name).read_bytes() == b"abc"


def test_old_files_make_room() -> None:
    uploads = Uploads(kept=2)
    first, second = uploads.keep(b"1", ""), uploads.keep(b"2", "")
    uploads.path(first)  # used again, so the second is now the oldest
    uploads.keep(b"3", "")
    assert uploads.path(first).read_bytes() == b"1"
    with pytest.raises(ValueError, match="no longer kept"):
        uploads.path(second)


@pytest.mark.parametrize("data", [b"", b"x" * (LARGEST + 1)])
def test_sizes_are_limited(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"empty|2\.0 MB; at most 2"):
        Uploads().keep(data, "")


@pytest.mark.parametrize(("data", "words"), [(b"\xff\xfe", "not UTF-8"), (b"  \n ", "no text"), (b"a\0b", "no text")])
def test_texts_are_checked(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Uploads().keep_text(data)


def test_a_text_loses_its_byte_order_mark_and_foreign_line_ends() -> None:
    uploads = Uploads()
    name = uploads.keep_text("\ufeffone\r\ntwo\r\n".encode())
    assert uploads.path(name).read_bytes() == b"one\ntwo"


def test_the_folder_goes_with_the_server() -> None:
    uploads = Uploads()
    path = uploads.path(uploads.keep(b"abc", ""))
    del uploads
    gc.collect()
    assert not path.exists()


def test_names_lead_nowhere_else() -> None:
    with pytest.raises(ValueError, match="no longer kept"):
        Uploads().path("../../etc/passwd")
