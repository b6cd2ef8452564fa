"""Is what is served still what was exported? Canaries are asked; another rung takes its place if it is not.

Importing this package loads neither torch nor a web framework.
"""
