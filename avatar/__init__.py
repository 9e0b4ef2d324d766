"""Gaussian-splatting head avatars: fit from video, render, view and drive them.

Nothing heavy is imported here; `import avatar` costs milliseconds. Start at `avatar.types` and `avatar.render`.
"""

__version__ = "0.1.0"
