import pytest

from massmigration.url_converters import PartConverter

CONVERTER = PartConverter()


@pytest.mark.parametrize("text", ["shop:0001_slugs", "a-b", "..", "a/b", "~2F", "%2F", "größe\n", "?#", "ü" * 200])
def test_every_text_comes_back_as_it_was(text):
    address = CONVERTER.to_url(text)

    assert CONVERTER.to_python(address) == text
    assert set(address) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_:-~")


def test_keys_look_as_they_are():
    assert CONVERTER.to_url("shop:0001_slugs") == "shop:0001_slugs"


def test_what_is_no_text_is_not_found():
    with pytest.raises(ValueError, match="utf-8"):
        CONVERTER.to_python("~FF")
