"""One program a tool, run with an interpreter that has it: a recipe in, what the tool made of each module out."""
