"""Brings the cases that have a page of their own into the table before the tests read it."""

import gumbel_cases  # noqa: F401
import recurrent_cases  # noqa: F401
