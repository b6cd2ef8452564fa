"""Train the embedded model: ``python -m demo.train --out demo/model`` (a GPU if there is one).

Everything is made here: the text by the generator, the tokenizer, the weights. ``--steps 20 --documents 2000``
rehearses it on a CPU in a minute.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from demo.capabilities import CAPABILITIES
from demo.generate import END_OF_TEXT, documents, items
from demo.tokenizer import VOCABULARY, train_tokenizer

WINDOW = 512
_TOKENIZER_DOCUMENTS = 4000
_CHUNK = 2000


def main() -> None:
    """Generate, tokenize, train, score, save."""
    arguments = _arguments()
    import torch

    start = time.perf_counter()
    tokenizer = train_tokenizer(documents("train", min(_TOKENIZER_DOCUMENTS, arguments.documents)))
    data = _tokens(tokenizer, arguments.documents, arguments.processes)
    print(f"{len(data):,} tokens of {arguments.documents:,} documents, {time.perf_counter() - start:.0f} s", flush=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(arguments.seed)
    model = build_model(tokenizer).to(device)
    began = time.perf_counter()
    steps = train(model, data, arguments, device, tokenizer)
    seconds = time.perf_counter() - began
    model = model.to(torch.bfloat16).eval()
    arguments.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    record = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_seen": steps * arguments.batch * WINDOW,
        "tokens_unique": len(data),
        "documents": arguments.documents,
        "steps": steps,
        "training_seconds": round(seconds, 1),
        "hardware": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
        "torch": torch.__version__,
        "accuracy": score(model.float(), tokenizer, device, arguments.items),
    }
    (arguments.out / "train.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2), flush=True)


def build_model(tokenizer: Any) -> Any:
    """An untrained Llama of 3.7 M parameters; hidden and FFN widths are multiples of 256."""
    from transformers import LlamaConfig, LlamaForCausalLM

    end = tokenizer.eos_token_id
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, num_hidden_layers=6,
            num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=WINDOW,
            tie_word_embeddings=True, rms_norm_eps=1e-5, bos_token_id=end, eos_token_id=end, pad_token_id=end,
        )
    )  # fmt: skip


def train(model: Any, data: Any, arguments: argparse.Namespace, device: str, tokenizer: Any) -> int:
    """AdamW with a cosine schedule on random windows of ``data`` (a 1-D int16 tensor); steps taken.

    The schedule ends with the last step or with the last minute, whichever comes first.
    """
    import torch

    steps, batch, rate = arguments.steps, arguments.batch, arguments.rate
    began = time.perf_counter()

    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=rate, betas=(0.9, 0.95), fused=device == "cuda",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    stepped = _loss if device == "cpu" else torch.compile(_loss)
    store = data.to(device)
    offsets = torch.arange(WINDOW + 1, device=device)
    for step in range(steps):
        elapsed = (time.perf_counter() - began) / (60 * arguments.minutes)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * _cosine(max(step / steps, elapsed)))
        starts = torch.randint(0, len(store) - WINDOW - 1, (batch,), generator=generator).to(device)
        windows = store[starts[:, None] + offsets].long()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            loss = stepped(model, windows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 500 == 0:
            shown = score(model, tokenizer, device, 100) if step % 1000 == 0 else ""
            print(f"step {step} loss {loss.item():.4f}, {elapsed:.0%} of the time {shown}", flush=True)
        if elapsed >= 1.0:
            return step + 1
    return steps


def _loss(model: Any, windows: Any) -> Any:
    import torch

    logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def score(model: Any, tokenizer: Any, device: str, count: int) -> dict[str, float]:
    """Share of held-out items answered right: the likeliest choice, or the exact greedy answer."""
    import torch

    found = {}
    model.eval()
    with torch.inference_mode():
        for capability in CAPABILITIES:
            chosen = items(capability, count)
            grade = _generated if capability.generative else _chosen
            found[capability.name] = sum(grade(model, tokenizer, device, item) for item in chosen) / count
    model.train()
    return found


def _chosen(model: Any, tokenizer: Any, device: str, item: dict[str, Any]) -> bool:
    import torch

    prompt = tokenizer(item["prompt"])["input_ids"]
    rows = [prompt + tokenizer(choice)["input_ids"] for choice in item["choices"]]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    logs = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    sums = [
        sum(float(logs[i, k - 1, row[k]]) for k in range(len(prompt), len(row))) for i, row in enumerate(rows)
    ]
    return sums.index(max(sums)) == item["gold"]


def _generated(model: Any, tokenizer: Any, device: str, item: dict[str, Any]) -> bool:
    import torch

    ids = tokenizer(item["prompt"])["input_ids"]
    wanted = tokenizer(item["answer"] + ".")["input_ids"]
    logits = model(input_ids=torch.tensor([ids + wanted], device=device), use_cache=False).logits[0]
    return bool((logits.argmax(-1)[len(ids) - 1 : -1].cpu() == torch.tensor(wanted)).all())


def _tokens(tokenizer: Any, count: int, processes: int) -> Any:
    import torch

    # Forking a process whose tokenizer has threads can hang, so workers start afresh.
    context, core = get_context("spawn"), tokenizer.backend_tokenizer.to_str()
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare, initargs=(core,)) as pool:
        chunks = [torch.from_numpy(chunk) for chunk in pool.map(_encode, range(0, count, _CHUNK))]
    return torch.cat(chunks)


_WORKER: dict[str, Any] = {}


def _prepare(core: str) -> None:
    from tokenizers import Tokenizer

    _WORKER["tokenizer"] = Tokenizer.from_str(core)


def _encode(start: int) -> Any:
    import numpy as np

    texts = [f"{text}\n{END_OF_TEXT}\n" for text in documents("train", _CHUNK, start)]
    encoded = [np.array(_WORKER["tokenizer"].encode(text).ids, dtype=np.int16) for text in texts]
    return np.concatenate(encoded)


def _cosine(fraction: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * fraction))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo/model"), help="folder of the model")
    parser.add_argument("--documents", type=int, default=100_000, help="documents generated for training (count)")
    parser.add_argument("--steps", type=int, default=6_000, help="optimizer steps (count)")
    parser.add_argument("--minutes", type=float, default=5.0, help="end of the schedule at the latest (minutes)")
    parser.add_argument("--batch", type=int, default=256, help="windows of 512 tokens a step (count)")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--processes", type=int, default=4, help="processes that generate text (count)")
    parser.add_argument("--items", type=int, default=400, help="items a capability is scored on (count)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    return parser.parse_args()


if __name__ == "__main__":
    main()
