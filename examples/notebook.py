"""From a search to an export in a notebook: every ``# %%`` is a cell for Jupyter, VS Code or Spyder.

``python examples/notebook.py FOLDER`` runs it as a program, on the embedded model; about a minute on two cores.
"""

# %% A search: stop it with the button of the notebook, and the front found so far is judged and written
import sys
from pathlib import Path

import paretune

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/notebook")
steps: list[str] = []
run = paretune.search(
    "embedded",
    out=folder,
    bits=[4, 8, 16],
    embedding_bits=[16],
    methods=["rtn"],
    limits=["kl<=0.05"],
    minutes=0.05,
    export=False,
    gguf=False,
    progress=lambda step: steps.append(step.stage),  # left out: a bar
)
print(run)

# %% The front is a DataFrame; units (bytes, nats, bits) are those of front.csv
print(run.front[["average_bits", "weight_bytes", "kl", "kl_stderr"]].sort_values("weight_bytes"))

# %% What is recommended, and what is best under other limits
print("recommended:", run.recommended.name)
smallest = run.select(["kl<=0.1"], metric="bytes")
print("smallest with a KL of at most 0.1 nat:", smallest.name)

# %% Write it for the engine; a fresh process loads it again and is held against the candidate
exported = run.export(smallest.name, progress=False)
print(f"{exported['folder']}: KL to the candidate {exported['kl_to_candidate']:.1e} nat a token")

# %% Is it worse than the model it was made from?
checked = paretune.check(
    exported["folder"], base="embedded", windows=4, task_limit=2, limits=["kl<=0.1"], progress=False
)
print("passed" if checked.passed else checked.failures)

# %% The page for people
print(run.report())
