"""What is measured: programs here, tables in ``results/``, the diary in ``log.md``."""
