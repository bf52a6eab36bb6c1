"""From prompts to tuned energies and measured rates: each stage a function, with files in between."""
