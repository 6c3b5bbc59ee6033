"""How many bytes are meant?"""

from __future__ import annotations

import pytest

from truetally.sources.kubernetes.decode import quantity


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("10Gi", 10 * 2**30),
        ("1500M", 1_500_000_000),
        ("1e9", 10**9),
        ("1E9", 10**9),
        ("1E", 10**18),
        ("2Ei", 2 * 2**60),
        ("1.5Gi", 3 * 2**29),
        ("128974848000m", 128_974_848),
        ("100k", 100_000),
        ("+5Ki", 5120),
        (" 1Ti ", 2**40),
    ],
)
def test_a_quantity_is_read_as_kubernetes_means_it(text, size):
    assert quantity(text) == size


@pytest.mark.parametrize(("text", "size"), [("1m", 1), ("1001m", 2), ("1n", 1), ("0.1Ki", 103)])
def test_fractions_of_a_byte_are_rounded_up(text, size):
    assert quantity(text) == size


@pytest.mark.parametrize("text", ["", "Gi", "10GiB", "10 Gi", "1K", "ten", "1e", "1..5", "."])
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(text)
