"""Decoded members within a budget of bytes."""

from shoal.models.cache import DecodedCache


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache: DecodedCache[str] = DecodedCache(3 * (4_096 + 3 * 1_000))
    for number in range(3):
        cache.keep(number, f"member {number}", 1_000)
    assert cache.get(0) == "member 0"
    cache.keep(3, "member 3", 1_000)
    assert [cache.get(number) for number in range(4)] == ["member 0", None, "member 2", "member 3"]


def test_a_member_larger_than_the_budget_is_kept_alone() -> None:
    cache: DecodedCache[str] = DecodedCache(10_000)
    cache.keep(0, "small", 10)
    cache.keep(1, "large", 1_000_000)
    assert (cache.get(0), cache.get(1), len(cache)) == (None, "large", 1)
    cache.keep(1, "again", 10)
    assert cache.size == 4_096 + 30
