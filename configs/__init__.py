"""Presets (YAML), shipped as package data."""
