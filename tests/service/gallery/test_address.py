"""The values of NOT3D_GALLERY, and that a password in it is never shown."""

import pytest
from pydantic import ValidationError

from service.gallery.address import MilvusAddress, parse_gallery
from service.settings import Settings


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("milvus://db", MilvusAddress("http://db:19530"), "db:19530"),
        ("milvus://127.0.0.1:7", MilvusAddress("http://127.0.0.1:7"), "127.0.0.1:7"),
        ("milvus+tls://db:443/site_1", MilvusAddress("https://db:443", "", "", "site_1"), "db:443/site_1"),
        ("milvus://[::1]:7/", MilvusAddress("http://[::1]:7"), "[::1]:7"),
        ("milvus://me:a%40b%2F@db", MilvusAddress("http://db:19530", "me", "a@b/"), "db:19530"),
    ],
)
def test_an_address_is_parsed(text: str, address: MilvusAddress, shown: str) -> None:
    assert parse_gallery(text) == address
    assert str(address) == shown
    assert Settings(gallery=text).milvus == address


def test_the_default_is_embedded() -> None:
    assert Settings().milvus is None
    assert Settings(gallery="embedded").milvus is None


@pytest.mark.parametrize(
    "text",
    [
        *("faiss", "http://db:19530", "milvus://", "milvus:db", "milvus://me:secret@db:port", "milvus://me:secret@:1"),
        *("milvus://me:@db", "milvus://:secret@db", "milvus://me@db", "milvus://@db", "milvus://:@db"),
        *("milvus://me:secret@db/a/b", "milvus://me:secret@db?x=1", "milvus://me:secret@db:99999", "milvus://[x"),
    ],
)
def test_any_other_value_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(gallery=text)
    assert "secret" not in str(refused.value)


def test_a_password_is_not_shown() -> None:
    settings = Settings(gallery="milvus://me:secret@db")
    for text in (repr(settings), str(settings), repr(settings.milvus), str(settings.milvus)):
        assert "secret" not in text
