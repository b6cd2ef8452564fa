"""Which steps make the work? The jobs behind the commands: search, judge, export, verify, compare, transform."""
