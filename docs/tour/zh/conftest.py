"""The code of the Chinese chapters is that of the English ones (tests/test_tour.py compares them) and runs there."""

collect_ignore_glob = ["*.md"]
