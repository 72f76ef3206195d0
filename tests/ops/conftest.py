"""Brings the cases that have a page of their own into the table before the tests read it."""

import cases_layers  # noqa: F401
import gumbel_cases  # noqa: F401
import recurrent_cases  # noqa: F401
