"""Pruning by ``llm-compressor`` on our text: rows of ``pruning.csv``, with the same error a layer as our own rows.

The error of a linear is ``tr(D C D^T) / tr(W C W^T)``, with ``D`` what pruning changed in the weight ``W`` and
``C = E[x x^T]`` of the dense model's inputs; ``layer_error`` is its mean over the linears. The library prunes block
after block, on inputs that the pruned blocks before it give, so this is not quite the number that it minimises, but it
is one number for both.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.compressors import Source, sources
from benchmarks.peer_table import PRUNING_PEERS, Peer
from benchmarks.peers import Bench, run_peer, window_kl
from paretune.compressors.covariance import gather_covariances, keeper
from paretune.spaces.architectures import read_model
from paretune.spaces.model import ModelSpec


def pruning_rows(
    source: Source,
    python: Path,
    *,
    windows: int = 32,
    calibration_windows: int = 64,
    peers: Sequence[Peer] = PRUNING_PEERS,
) -> Iterator[dict[str, object]]:
    """Rows of ``pruning.csv``, one a peer; ``stored_bytes`` are dense, as every export stores zeros.

    Args:
        source: model and texts.
        python: interpreter that has the libraries.
        windows: that are read (count).
        calibration_windows: that are calibrated on (count).
        peers: which; all if left out.

    Raises:
        PeerError: a program failed.
    """
    spec = read_model(source.folder)
    bench = Bench.of(source, windows, calibration_windows)
    covariances = dict(gather_covariances(bench.model, spec, bench.calibration))
    stored = spec.dtype_bytes * sum(parameter.numel() for parameter in bench.model.parameters())
    for peer in peers:
        answer = run_peer(bench, peer, python)
        structure = peer.options["mask_structure"]
        yield {
            "model": source.name, "criterion": peer.method,
            "pattern": "unstructured" if structure == "0:0" else structure,
            "sparsity": peer.options["sparsity"], "implementation": peer.implementation,
            "kl": f"{window_kl(bench, answer).mean():.6g}",
            "layer_error": f"{mean_error(spec, bench, covariances, answer.weights):.6g}",
            "stored_bytes": stored,
        }  # fmt: skip


def mean_error(
    spec: ModelSpec,
    bench: Bench,
    covariances: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
) -> float:
    """Mean of :func:`layer_error` over the linears inside the blocks."""
    dense = dict(bench.model.named_parameters())
    errors = [
        layer_error(dense[x.parameter], weights[x.parameter], covariances[keeper(spec, x).name])
        for x in spec.block_linears
    ]
    return sum(errors) / len(errors)


def layer_error(dense: torch.Tensor, pruned: torch.Tensor, covariance: torch.Tensor) -> float:
    """Squared error of the outputs as a share of their squares.

    Args:
        dense: ``(out, in)``.
        pruned: ``(out, in)``.
        covariance: ``E[x x^T]``, ``(in, in)``.
    """
    weight, second = dense.to(torch.float64), covariance.to(torch.float64)
    change = pruned.to(torch.float64) - weight
    return float(((change @ second) * change).sum() / ((weight @ second) * weight).sum())


def main() -> None:
    """Print the rows of the embedded model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="interpreter that has the libraries")
    arguments = parser.parse_args()
    for row in pruning_rows(sources(None)[0], arguments.python):
        print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
