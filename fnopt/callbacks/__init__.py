"""Callbacks of `Trainer`: objects with any of `on_update(view)`, `on_validate(view)`, `on_save(view)`."""

from .view import View as View
