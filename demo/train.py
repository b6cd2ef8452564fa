"""Train the embedded model: ``python -m paretune.demo.train --out demo/model`` (on a GPU if there is one).

Everything is made here: the text by the generator, the tokenizer, the weights. ``--steps 4 --documents 500
--no-compile`` rehearses it in a minute. Hidden matrices learn by Muon (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon), embeddings and norms by AdamW.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own custom)
import transformers
from torch import Tensor

from paretune.demo.corpus import Corpus, read_corpus
from paretune.demo.decoder import Decoder, to_llama
from paretune.demo.generate import documents
from paretune.demo.scoring import score
from paretune.demo.tokenizer import train_tokenizer

_TOKENIZER_DOCUMENTS = 4000
_WINDOW = 512
_EARLY_WINDOW = 256
_EARLY_SHARE = 0.75
"""Short windows for the first part of the steps: attention is the dearest part on a CPU."""
_WARMUP_STEPS = 60
_FINAL_ITEMS = 400
_DECAY_SHARE = 0.5


def main() -> None:
    """Generate, tokenize, train, score, save."""
    arguments = _arguments()
    torch.manual_seed(arguments.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = train_tokenizer(documents("train", min(_TOKENIZER_DOCUMENTS, arguments.documents)))
    corpus = read_corpus(tokenizer, arguments.documents, arguments.processes)
    print(f"{len(corpus.tokens):,} tokens of {arguments.documents:,} documents", flush=True)
    decoder = Decoder(getattr(torch, arguments.dtype)).to(device)
    seconds = train(decoder, corpus, tokenizer, arguments, device)
    llama = to_llama(decoder, tokenizer.eos_token_id).to(torch.bfloat16)
    llama.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    llama = llama.float()
    record = {
        "parameters": sum(parameter.numel() for parameter in llama.parameters()),
        "tokens": arguments.steps * arguments.batch_tokens,
        "documents": arguments.documents,
        "tokens_unique": len(corpus.tokens),
        "settings": {name: value for name, value in vars(arguments).items() if name != "out"},
        "training_s": round(seconds, 1),
        "hardware": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "light_score_items": _FINAL_ITEMS,
        "light_score": score(
            lambda ids: llama(input_ids=ids, use_cache=False).logits, tokenizer, "cpu", _FINAL_ITEMS
        ),
    }
    (arguments.out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2), flush=True)


def train(
    decoder: Decoder, corpus: Corpus, tokenizer: Any, arguments: argparse.Namespace, device: str
) -> float:
    """Run every step; returns the seconds it took."""
    optimizers = _optimizers(decoder, arguments.rate)
    generator = torch.Generator().manual_seed(arguments.seed)
    step_loss: Callable[[Decoder, Tensor], Tensor] = (
        torch.compile(_loss, dynamic=False) if arguments.compile else _loss
    )
    corpus = corpus.to(device)
    began = time.perf_counter()
    last = arguments.steps - 1
    for step in range(last + 1):
        rate = arguments.rate * _schedule(step, arguments.steps)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        window = _EARLY_WINDOW if step < _EARLY_SHARE * arguments.steps else _WINDOW
        loss = step_loss(decoder, corpus.windows(arguments.batch_tokens // window, window, generator))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % arguments.report_every == 0 or step == last:
            seconds = time.perf_counter() - began
            speed = (step + 1) * arguments.batch_tokens / seconds
            right = score(decoder, tokenizer, device, arguments.report_items)
            print(
                f"step {step} loss {loss.item():.4f} {seconds:.0f} s {speed:,.0f} tokens/s {right}",
                flush=True,
            )
            if arguments.keep:
                torch.save(decoder.state_dict(), arguments.out / "decoder.pt")
    return time.perf_counter() - began


def _optimizers(decoder: Decoder, rate: float) -> list[torch.optim.Optimizer]:
    matrices = [p for p in decoder.blocks.parameters() if p.ndim == 2]
    others = [decoder.embedding, decoder.norm, *(p for p in decoder.blocks.parameters() if p.ndim == 1)]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def _schedule(step: int, steps: int) -> float:
    """Warm-up, a plateau, then a straight line down to zero."""
    rising = (step + 1) / _WARMUP_STEPS
    falling = (steps - step) / (_DECAY_SHARE * steps)
    return min(1.0, rising, falling)


def _loss(decoder: Decoder, windows: Tensor) -> Tensor:
    logits = decoder(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    gpu = torch.cuda.is_available()
    parser.add_argument("--out", type=Path, default=Path("demo/model"), help="folder of the model")
    parser.add_argument(
        "--documents", type=int, default=160_000, help="documents generated for training (count)"
    )
    parser.add_argument("--steps", type=int, default=4_000, help="optimizer steps (count)")
    parser.add_argument("--batch-tokens", type=int, default=16_384, help="tokens a step (count)")
    parser.add_argument("--rate", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="processes that generate text (count)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and of the order of windows")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16" if gpu else "float32",
        help="of the arithmetic; bfloat16 is faster on a CPU too, if it has AMX",
    )  # fmt: skip
    parser.add_argument("--report-every", type=int, default=250, help="steps between scores (count)")
    parser.add_argument("--report-items", type=int, default=100, help="items scored each time (count)")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="torch.compile"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep decoder.pt, the float32 weights, beside the model"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


if __name__ == "__main__":
    main()
