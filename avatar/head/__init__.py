"""Parametric heads behind one `HeadModel`: open_head (packaged), FLAME, GNM and ICT (user's files)."""

from avatar.head.model import HeadModel
from avatar.head.registry import available_heads, load

__all__ = ["HeadModel", "available_heads", "load"]
