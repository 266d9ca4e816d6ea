"""Stability search for diffusion training."""
