"""Proofs: what two machines compare, and what an auditor checks."""
