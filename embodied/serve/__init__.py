"""Runs exported policies beside a robot: numpy and ONNX Runtime, no torch."""

from embodied.serve.bundle import Bundle, read_bundle
from embodied.serve.runtime import Runtime

__all__ = ["Bundle", "Runtime", "read_bundle"]
