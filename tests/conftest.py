"""Threads: workers that run side by side take one core each, or they wait for each other all the time."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch, OpenCV and onnxruntime start their thread pools.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
