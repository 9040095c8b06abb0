import tracemalloc

from services.conversations.search import words


def test_no_table_of_all_characters_stays_in_memory() -> None:
    # Three processes import this module. A table of each character's category took 20 MiB in each.
    assert max(len(value) for value in vars(words).values() if isinstance(value, dict)) < 5000


def test_long_words_do_not_stay_in_memory() -> None:
    tracemalloc.start()
    for number in range(100):
        words.terms(f"{number}{'a' * 9_000}")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000
