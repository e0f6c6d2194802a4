"""Bridges to other libraries. Each is imported where it is used: the core knows none of them."""
