"""Gaussian-splatting head avatars: fit from video, render, view and drive them.

Nothing heavy is imported here; `import avatar` costs milliseconds. Start at `avatar.types` and `avatar.render`.
"""

import os

__version__ = "0.1.0"

# Read by the thread pool when torch is loaded, so it works where avatar is imported first. Threads that wait by spinning
# take the processor from those they wait for: on a busy machine a frame took 518 ms instead of 34.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
