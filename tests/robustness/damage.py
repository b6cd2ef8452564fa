"""Damage to files, as hypothesis generates it: of bytes, of lines and of the values of JSON."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

_ODD = (
    None, True, 0, -1, 10**400, 1e308, float("nan"), "", "x", "\ud800", "../../etc/passwd", [], [[]], {}, {"a": 1},
    "9" * 5000, [0] * 3,
)  # fmt: skip
_WHOLE = (
    b"", b"\xff", b"\x00" * 64, b"[" * 100_000, b"{" * 3000, b'{"a":' * 3000, b"[]", b"1", b"null", b'"text"', b"{",
    b"\xef\xbb\xbf{}", b'{"schema_version": 2}', b"&a [*a]", b"a: !!int x", b"a: 2026-13-01", b"d: 2026-01-01", b"\n\n",
)  # fmt: skip


def flipped(content: bytes) -> st.SearchStrategy[bytes]:
    """One bit is another."""

    def flip(place: int) -> bytes:
        found = bytearray(content)
        found[place // 8] ^= 1 << place % 8
        return bytes(found)

    return st.integers(0, 8 * len(content) - 1).map(flip)


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that are close to ``content``, or what nobody would write there."""
    place = st.integers(0, len(content))
    kinds = [
        st.sampled_from(_WHOLE),
        st.binary(max_size=64),
        place.map(lambda end: content[:end]),
        st.tuples(place, st.binary(min_size=1, max_size=8)).map(
            lambda x: content[: x[0]] + x[1] + content[x[0] :]
        ),
        st.tuples(place, place).map(lambda ends: content[: min(ends)] + content[max(ends) :]),
        st.randoms(use_true_random=False).map(lambda random: _lines(content, random)),
    ]
    if content:
        kinds.append(flipped(content))
    try:
        value = json.loads(content)
    except ValueError:
        return st.one_of(kinds)
    return st.one_of(
        *kinds, *[st.randoms(use_true_random=False).map(lambda random: _value(value, random))] * 3
    )


def _lines(content: bytes, random: Any) -> bytes:
    lines = content.splitlines(keepends=True)
    if not lines:
        return b""
    one, other = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(4):
        case 0:
            del lines[one]
        case 1:
            lines.insert(other, lines[one])
        case 2:
            lines[one], lines[other] = lines[other], lines[one]
        case _:
            lines = lines[one:]
    return b"".join(lines)


def _value(value: Any, random: Any) -> bytes:
    """The same JSON with one value, or one key, that is another."""
    found = json.loads(json.dumps(value))
    place = found
    while isinstance(place, dict | list) and place:
        key = random.choice(sorted(place)) if isinstance(place, dict) else random.randrange(len(place))
        if not isinstance(place[key], dict | list) or not place[key] or random.random() < 0.3:
            if isinstance(place, dict) and random.random() < 0.2:
                place["another" if random.random() < 0.5 else key + "s"] = place.pop(key)
            elif random.random() < 0.15:
                del place[key]
            else:
                place[key] = random.choice(_ODD)
            break
        place = place[key]
    return json.dumps(found).encode("utf-8", "surrogatepass")
