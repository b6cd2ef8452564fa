"""Which rows and columns a student keeps, by hand on a small model."""

import pytest
import torch

from compressors.students import kept_columns, kept_indices, kept_rows, ruling, touched
from spaces.configuration import WHOLE, Student
from spaces.model import FixedTensor, Uncuttable
from spaces.size import kept_shape
from tests.fakes import tiny_spec


class Ranked:
    """Heads 1 and 2 of four matter most, of six channels 5, 0 and 3."""

    def importance(self, kind, block, ranking):
        assert ranking == "activation"
        return {"heads": torch.tensor([0.1, 0.9, 0.8, 0.2]), "channels": torch.tensor([5.0, 1, 2, 4, 3, 9])}[
            kind
        ]


SPEC = tiny_spec(hidden=32, heads=8, kv_heads=4, head_dim=2, ffn=6)


@pytest.mark.parametrize(
    ("role", "rows", "columns"),
    [
        ("q", [4, 5, 6, 7, 8, 9, 10, 11], None),
        ("k", [2, 3, 4, 5], None),
        ("v", [2, 3, 4, 5], None),
        ("o", None, [4, 5, 6, 7, 8, 9, 10, 11]),
        ("gate", [0, 3, 5], None),
        ("down", None, [0, 3, 5]),
        ("embedding", None, None),
    ],
)
def test_kept_rows_and_columns(role, rows, columns):
    student = Student(kv_heads=2, ffn_channels=3)
    linear = SPEC.of_role(role)[0]
    for found, expected in (
        (kept_rows(SPEC, Ranked(), linear, student), rows),
        (kept_columns(SPEC, Ranked(), linear, student), columns),
    ):
        assert (None if found is None else found.tolist()) == expected
    shape = kept_shape(SPEC, linear, student)
    assert shape[0] == (linear.out_features if rows is None else len(rows))
    assert shape[1] == (linear.in_features if columns is None else len(columns))


def test_stacked_projections_are_cut_in_each_part():
    student = Student(kv_heads=2, ffn_channels=3)
    found = kept_indices(SPEC, Ranked(), "qkv", 0, student)
    assert found.tolist() == [*range(4, 12), *range(18, 22), *range(26, 30)]
    pair = kept_indices(SPEC, Ranked(), "ffn_pair", 0, student)
    assert pair.tolist() == [0, 3, 5, 6, 9, 11]


def test_keeping_everything_keeps_the_order():
    for linear in SPEC.linears:
        for kept in (kept_rows, kept_columns):
            found = kept(SPEC, Ranked(), linear, Student(kv_heads=4, ffn_channels=6))
            assert found is None or found.tolist() == list(range(len(found)))


def test_of_equals_the_first_stay():
    class Equal:
        def importance(self, kind, block, ranking):
            return torch.ones(6)

    assert kept_indices(SPEC, Equal(), "ffn", 0, Student(ffn_channels=2)).tolist() == [0, 1]


def test_what_a_cut_touches():
    student = Student(blocks=(0, 2), kv_heads=2, ffn_channels=3)
    assert touched(SPEC.of_role("q")[0], student) == Student(kv_heads=2)
    assert touched(SPEC.of_role("down")[0], student) == Student(ffn_channels=3)
    assert touched(SPEC.embedding, student) == WHOLE
    assert touched(FixedTensor(name="b", shape=(4,), axis="kv_heads"), student) == Student(kv_heads=2)


def test_rulings():
    assert ruling(SPEC, Student(blocks=(0, 2), kv_heads=2, ffn_channels=3))
    assert "block 3" in ruling(SPEC, Student(blocks=(0, 3))).reason
    assert "9 FFN channels" in ruling(SPEC, Student(ffn_channels=9)).reason
    assert "5 key-value heads" in ruling(SPEC, Student(kv_heads=5)).reason
    fixed = SPEC.model_copy(update={"uncuttable": (Uncuttable(kind="kv_heads", reason="derives its heads"),)})
    assert ruling(fixed, Student(kv_heads=2)).reason == "derives its heads"
    assert ruling(fixed, Student(ffn_channels=3))
