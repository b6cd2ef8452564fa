"""The capabilities of the embedded model, one file each; a line here registers one."""

from __future__ import annotations

from paretune.demo.capabilities.agreement import Agreement
from paretune.demo.capabilities.arithmetic import Arithmetic
from paretune.demo.capabilities.capability import Capability, Item
from paretune.demo.capabilities.ordering import Ordering
from paretune.demo.capabilities.recall import Recall
from paretune.demo.capabilities.retrieval import Retrieval

CAPABILITIES: tuple[Capability, ...] = (Agreement(), Arithmetic(), Ordering(), Recall(), Retrieval())

__all__ = ["CAPABILITIES", "Capability", "Item"]
