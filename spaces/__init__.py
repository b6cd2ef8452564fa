"""What can vary, and in which words do we speak?

Values and protocols shared by every floor. Imports nothing but the standard library, numpy and pydantic.
"""
