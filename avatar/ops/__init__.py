"""Native operators. One file each; `reference.py` holds the plain-torch definition that every one is tested against."""
