"""Dataparsers and procedural scenes."""
