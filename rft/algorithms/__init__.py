"""The algorithms under comparison: one file and one YAML each; nothing here lists them."""
