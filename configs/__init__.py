"""Jobs and presets (installed as avatar.configs)."""
