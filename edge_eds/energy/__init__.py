"""Energies of hidden states: weights and closed form, settings, the energy file, engines and training."""
