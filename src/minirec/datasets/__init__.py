"""Catalog types: tables, matrices, adapters, and what comes out of a wheel."""
