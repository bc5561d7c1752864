"""The version of imptool, in a file that any other may import."""

__version__ = "0.3.0.dev0"
