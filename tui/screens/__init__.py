"""The screens of the operators' terminal."""
