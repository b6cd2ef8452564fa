"""Orthogonal matrices with entries as equal as possible: Hadamard matrices with random signs.

A Hadamard matrix of size ``2^k m`` with ``m`` odd is the Kronecker product of Sylvester's matrix and one of Paley's
(Paley 1933, "On orthogonal matrices"; sizes ``q + 1`` for primes ``q = 3 mod 4``, ``2 (q + 1)`` for primes
``q = 1 mod 4``). Where neither gives a size ``2^j m``, a random orthogonal block of size ``m`` stands in its place:
channels are then mixed a little less evenly, and everything else holds.
"""

from __future__ import annotations

from math import isqrt, sqrt

import torch


def randomized_hadamard(size: int, seed: int) -> torch.Tensor:
    """``D H / sqrt(size)`` with random signs ``D``: orthogonal, float64 ``(size, size)``."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (size, 1), generator=generator).to(torch.float64) * 2 - 1
    powers, odd = _split(size)
    core = _core(powers, odd)
    if core is None:
        block = torch.randn(odd, odd, generator=generator, dtype=torch.float64)
        core = torch.linalg.qr(block).Q.contiguous()
    else:
        core = core / sqrt(len(core))
    return signs * torch.kron(_sylvester(size // len(core)), core)


def is_exact(size: int) -> bool:
    """Whether every entry of :func:`randomized_hadamard` has the same magnitude."""
    return _core(*_split(size)) is not None


def _split(size: int) -> tuple[int, int]:
    powers = (size & -size).bit_length() - 1
    return powers, size >> powers


def _core(powers: int, odd: int) -> torch.Tensor | None:
    """The smallest Hadamard matrix of size ``2^j odd`` with ``j <= powers``, if Paley or nothing gives one."""
    if odd == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    for exponent in range(2, powers + 1):
        order = odd << exponent
        if (order - 1) % 4 == 3 and _is_prime(order - 1):
            return _paley_first(order - 1)
        if (order // 2 - 1) % 4 == 1 and _is_prime(order // 2 - 1):
            return _paley_second(order // 2 - 1)
    return None


def _sylvester(size: int) -> torch.Tensor:
    """Normalised; ``size`` is a power of two."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.kron(step, matrix)
    return matrix / sqrt(size)


def _paley_first(prime: int) -> torch.Tensor:
    """Of size ``prime + 1``: one plus the skew conference matrix."""
    matrix = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    matrix[0, 1:], matrix[1:, 0] = 1.0, -1.0
    matrix[1:, 1:] = _residues(prime)
    return matrix + torch.eye(prime + 1, dtype=torch.float64)


def _paley_second(prime: int) -> torch.Tensor:
    """Of size ``2 (prime + 1)``, from the symmetric conference matrix."""
    matrix = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    matrix[0, 1:], matrix[1:, 0] = 1.0, 1.0
    matrix[1:, 1:] = _residues(prime)
    off = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    diagonal = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(matrix, off) + torch.kron(torch.eye(prime + 1, dtype=torch.float64), diagonal)


def _residues(prime: int) -> torch.Tensor:
    """Jacobsthal's matrix: the quadratic character of row minus column."""
    character = -torch.ones(prime, dtype=torch.float64)
    places = torch.arange(prime)
    character[places * places % prime] = 1.0
    character[0] = 0.0
    return character[(places[:, None] - places[None, :]) % prime]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))
