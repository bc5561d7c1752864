"""imptool: clothing parsing with Instance Mask Projection."""

__version__ = "0.1.0"
