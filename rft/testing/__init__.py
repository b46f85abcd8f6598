"""Conformance checks of parts."""
