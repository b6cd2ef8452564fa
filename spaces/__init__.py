"""The words and values of a search: what can vary, and how it is said.

Values and protocols shared by every floor. Imports nothing but the standard library, numpy and pydantic.
"""
