"""The browser viewer (installed as avatar.viewer)."""
