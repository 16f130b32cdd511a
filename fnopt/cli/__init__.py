"""The `fnopt` command."""
