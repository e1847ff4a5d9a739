"""What `gvd-benchmark` measures, one command a module."""
