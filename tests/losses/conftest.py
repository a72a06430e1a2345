"""Imports rlax once, with the warnings of what it imports kept out of the tests."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # tensorflow_probability uses deprecated names
    import rlax  # noqa: F401
