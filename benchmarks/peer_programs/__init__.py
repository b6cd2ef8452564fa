"""One program a peer library, run with an interpreter that has it: a job folder in, weights or divergences out."""
