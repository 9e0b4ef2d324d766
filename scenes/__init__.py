"""Dataset readers: every layout becomes a Scene (installed as avatar.scenes)."""
