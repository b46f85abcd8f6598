"""Language models: loading, adapters and heads."""
