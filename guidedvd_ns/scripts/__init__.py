"""The `gvd-*` commands."""
