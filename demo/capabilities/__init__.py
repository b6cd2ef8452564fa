"""The capabilities of the embedded model, one file each; a line here registers one."""

from __future__ import annotations

from demo.capabilities.agreement import Agreement
from demo.capabilities.arithmetic import Arithmetic
from demo.capabilities.capability import Capability, Item
from demo.capabilities.ordering import Ordering
from demo.capabilities.recall import Recall
from demo.capabilities.retrieval import Retrieval

CAPABILITIES: tuple[Capability, ...] = (Agreement(), Arithmetic(), Ordering(), Recall(), Retrieval())

__all__ = ["CAPABILITIES", "Capability", "Item"]
